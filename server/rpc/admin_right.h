// What somebody may call of infercache.v1.Admin.

#pragma once

#include <cstdint>

namespace infercache::rpc {

// Each includes those before it.
enum class AdminRight : uint8_t {
  kNone,
  kRead,  // what changes nothing: GetInfo, GetStats, ListNamespaces
  kAll,
};

}  // namespace infercache::rpc

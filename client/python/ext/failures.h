// What callers are told of calls that did not go as they wished.

#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <string>

#include "infercache/client.h"

namespace infercache::python {

// Why a call was a miss or refused.
struct Failure {
  std::string code;
  std::string reason;
};

// infercache.Failure; None of null.
nanobind::object FailureObject(const Failure* failure);

// (outcome, code, reason)
nanobind::tuple Answer(const char* outcome, const absl::Status& status);
nanobind::tuple PutAnswer(const PutResult& result);

// One bool a key, all false after an error.
nanobind::list FlagList(const KeysResult& result, size_t count);

}  // namespace infercache::python

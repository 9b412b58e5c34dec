// What happens to objects, for metrics today and for a Watch stream later.

#pragma once

#include <cstdint>
#include <string_view>

#include "common/hash.h"

namespace infercache::store {

enum class EventKind : uint8_t { kStored, kErased, kEvicted, kExpired, kReplaced, kFlushed };

struct Event {
  uint64_t sequence =
      0;  // per namespace, from 1, without gaps; in the order of the index's changes
  EventKind kind = EventKind::kStored;
  std::string_view namespace_name;  // valid during the call
  Hash128 key_hash;                 // names the object for as long as the daemon runs
  uint64_t size_bytes = 0;
  uint64_t idle_ms = 0;  // removals: since the last use
};

// Called after the change, without any lock held, on the thread that made it: several threads at
// once, and not in sequence order. Must not call back into the store.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnEvent(const Event& event) = 0;
};

}  // namespace infercache::store

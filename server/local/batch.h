// How far a request of many items has come. They are done one after the other, and between two of
// them others may have their turn.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "server/store/namespace.h"

namespace infercache::local {

// Of what is there already; a use is short.
inline constexpr size_t kUsesAStep = 64;

struct Batch {
  // Asked after each step; empty = never.
  std::function<bool()> turn_is_over = {};
  // False: it stopped. The same call with the same request and response goes on.
  bool done = true;

  bool begins() const { return next == 0; }
  // Calls step(i) for the steps up to `count` that are left, until the turn is over.
  template <class Step>
  void GoOn(size_t count, Step step) {
    done = true;
    while (next < count) {
      step(next++);
      if (next < count && turn_is_over && turn_is_over()) {
        done = false;
        return;
      }
    }
  }

  // What its verb keeps of it. Each uses some.
  size_t next = 0;
  uint64_t request = 0;  // Namespace::NewRequest
  struct StoringStep {
    size_t index;
    store::UseContext use;
  };
  std::vector<StoringStep> order = {};
  std::vector<uint64_t> leases = {};
  size_t answer_bytes = 0;
  absl::Status status = absl::OkStatus();
};

}  // namespace infercache::local

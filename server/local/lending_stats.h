// What of lending is counted.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace infercache::local {

// Of all sessions of a server. Deadlines are the owners' own: of a take-back that was given up the
// daemon knows that it still waits.
struct LendingStats {
  // Now. A loan is there until it is free, and a reader that is over while its process lives counts
  // as one.
  uint64_t loans = 0, bytes = 0, allocations = 0;
  uint64_t readers = 0;          // that have borrowed or mapped something
  uint64_t borrowed = 0;         // loans, counted for each time
  uint64_t mapped = 0;           // allocations, counted for each time
  uint64_t waiting = 0;          // loans that were taken back and somebody has
  uint64_t longest_wait_ms = 0;  // of those
  // Since the start.
  uint64_t lent = 0;
  uint64_t borrows_found = 0, borrows_not_found = 0;  // keys
  uint64_t borrows_not_opened = 0;  // of those found: the reader could not open the memory
  // Loans by how they ended: nobody had them, readers gave them back, or their owner's session
  // ended, be it while it waited.
  uint64_t taken_back_at_once = 0, taken_back_after_wait = 0, owner_gone = 0;

  bool operator==(const LendingStats&) const = default;
};

// Why something was neither lent nor borrowed nor mapped. A miss is no refusal.
enum class LendingRefusal : uint8_t {
  kAccess,    // the session may not write in place
  kExists,    // somebody lends the key already
  kGone,      // it is being taken back, or there is nothing of it any more
  kInvalid,   // it makes no sense
  kLimit,     // of a session or of the daemon
  kStopping,  // the daemon drains, or the namespace is deleted
};
inline constexpr size_t kLendingRefusals = 6;
std::string_view LendingRefusalName(LendingRefusal refusal);
// REQUIRES: what one of the verbs of Loans said, and not OK.
LendingRefusal WhyRefused(absl::StatusCode code);

}  // namespace infercache::local

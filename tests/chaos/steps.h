// The steps of the protocol at which a worker can die, and what it then holds.

#pragma once

#include <array>
#include <cstdint>

namespace infercache::chaos {

// Of the object that a worker reserves.
inline constexpr uint64_t kObjectBytes = uint64_t{64} << 10;

struct Step {
  const char* name;
  bool session = false;      // a session is open
  bool reservation = false;  // the worker holds one
  bool pin = false;          // in its page
  bool lease = false;        // by Lookup
  bool claim = false;        // on the key of its object
  bool committed = false;    // its object is visible, and stays
  bool host_memory =
      false;  // the worker maps the chunks or sends bytes: there is none of it in a tier
  // Whether the last request was read cannot be told from outside: the object may be visible.
  bool perhaps_committed = false;
};

inline constexpr std::array kSteps = {
    Step{.name = "connected"},
    Step{.name = "half_hello"},
    Step{.name = "hello_sent", .session = true},
    Step{.name = "open", .session = true},
    Step{.name = "fetched", .session = true},
    Step{.name = "mapped", .session = true, .host_memory = true},
    Step{.name = "half_inline", .session = true, .host_memory = true},
    Step{.name = "inline_sent", .session = true, .host_memory = true, .perhaps_committed = true},
    Step{.name = "grow_sent", .session = true},
    Step{.name = "half_reserve", .session = true},
    Step{.name = "reserve_sent", .session = true, .reservation = true},
    Step{.name = "reserved", .session = true, .reservation = true},
    Step{.name = "half_written", .session = true, .reservation = true, .host_memory = true},
    Step{.name = "written", .session = true, .reservation = true, .host_memory = true},
    Step{.name = "half_write", .session = true, .reservation = true, .host_memory = true},
    Step{.name = "half_commit", .session = true, .reservation = true},
    Step{.name = "commit_sent", .session = true, .perhaps_committed = true},
    Step{.name = "committed", .session = true, .committed = true},
    Step{.name = "abort_sent", .session = true},
    Step{.name = "aborted", .session = true},
    Step{.name = "claim_sent", .session = true, .claim = true},
    Step{.name = "claimed", .session = true, .claim = true},
    Step{.name = "claim_reserved", .session = true, .reservation = true, .claim = true},
    // The slot's store is done or not; the second look changes nothing that others can see.
    Step{.name = "pinned", .session = true, .pin = true},
    Step{.name = "lookup_sent", .session = true, .lease = true},
    Step{.name = "leased", .session = true, .lease = true},
    Step{.name = "release_sent", .session = true},
    Step{.name = "touching", .session = true},
};

}  // namespace infercache::chaos

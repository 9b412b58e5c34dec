// Hits, misses and matches out of shared memory: the path that never asks the daemon.
//
// Every call either settles all of what it is asked or says what is left for the daemon to settle.
// Thread-safe.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "client/src/local_lanes.h"
#include "client/src/transport.h"

namespace infercache {

class LocalReader {
 public:
  // Whether an object may be copied: for Get beyond the budget, for View never. kOwn is kAllowed
  // for what this client has stored just now: a view of it counts as no hit.
  enum class Copies { kAllowed, kRefused, kOwn };
  // kAskDaemon: a key changes too fast to tell, or the bytes do not match their checksum.
  // kNoSession: there is none, or it is over. Nothing is in the result then.
  enum class Settled { kDecided, kAskDaemon, kNoSession };

  struct Copied;

  // `clock` is the daemon's, for expiry; null = the real one. `lanes` outlives the reader.
  LocalReader(LocalLanes& lanes, std::function<absl::Time()> clock)
      : lanes_(lanes), clock_(std::move(clock)) {}

  // REQUIRES, for all: keys of a legal length.
  Settled GetInto(std::string_view key, std::span<std::byte> destination, GetIntoResult* result);
  Settled Get(std::string_view key, Copies copies, GetResult* result);

  // Batches. kAskDaemon: `left` has the indices that are not settled.
  Settled GetInto(std::span<const std::string_view> keys,
                  std::span<const std::span<std::byte>> destinations,
                  std::span<GetIntoResult> results, std::vector<size_t>* left);
  Settled Get(std::span<const std::string_view> keys, Copies copies, std::span<GetResult> results,
              std::vector<size_t>* left);
  // Sizes and presence per key; counts as a use of what is there if `touch`.
  Settled Match(std::span<const std::string_view> keys, bool touch, std::vector<bool>* present,
                std::vector<uint64_t>* size_bytes, std::vector<size_t>* left);

  // How many slots a batch of so many views lacks.
  uint32_t SlotsLacking(size_t views);

 private:
  using Lane = LocalLanes::Lane;

  // One key each. `lane` may be given up and taken again. *touch = the pin that was held, or 0.
  Settled CopyOne(Lane& lane, std::string_view key, std::span<std::byte> destination,
                  uint64_t now_ms, GetIntoResult* result, uint64_t* touch);
  // `destination` has the object's size.
  Settled CopyLarge(Lane& lane, std::string_view key, std::span<std::byte> destination,
                    uint64_t now_ms, GetIntoResult* result, uint64_t* touch);
  Settled ViewOne(Lane& lane, std::string_view key, Copies copies, uint64_t now_ms,
                  GetResult* result, uint64_t* touch);
  Settled ViewWithoutSlot(Lane& lane, std::string_view key, Copies copies, uint64_t now_ms,
                          GetResult* result, uint64_t* touch);
  // A copy of an object of `size` bytes, made in `slot`, which is free. The lane may be given up
  // unless the slot is its own.
  Settled GetCopy(Lane& lane, const std::shared_ptr<LocalSession>& session, shm::PinSlot& slot,
                  std::string_view key, uint64_t size, uint64_t now_ms, GetResult* result,
                  uint64_t* touch);
  // Takes the lane again and counts. As Settled says for all that was to be done.
  Settled CountCopied(Lane& lane, const std::shared_ptr<LocalSession>& session,
                      const Copied& copied, uint64_t size, uint64_t* touch);

  uint64_t NowMs() const;

  LocalLanes& lanes_;
  const std::function<absl::Time()> clock_;
};

}  // namespace infercache

// File: infercache/claim.h
//
// Single flight: of the workers that miss a key, one computes it and the others get what it made.
//
//   auto got = client->GetOrCompute("block/42", [&](infercache::ComputeSlot& slot) {
//     auto room = slot.Allocate(kBlockBytes);
//     if (!room.ok()) return room.status();
//     ComputeBlockInto(*room);
//     return absl::OkStatus();
//   });
//   if (got.status.ok()) Use(got.object->bytes());
//
// A Claim is the right to compute a key. It is this client's until the key is committed by anybody,
// it is given up (a claim that is destroyed), its time is over, or the client is gone; then it
// passes on to the one that has waited longest.
//
// GetOrCompute never waits while it has something to compute: it computes and commits all that it
// won, whatever the order of the keys, and then waits for the rest, computing what passes on to it
// meanwhile. So clients whose batches overlap never wait for each other in a circle. Whoever uses
// claims directly (Client::SubmitGetOrReserve) keeps to that: fulfil them, or give them up, before
// waiting for others.

#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "infercache/types.h"

namespace infercache {

// The right to compute a key. Move-only. One thread at a time; any thread may destroy it, also
// after its client, which gives it up. It is fulfilled by a Reserve that takes it over and the
// Commit of that, or by any put of the key.
class Claim {
 public:
  // What gives it up; only transports make one.
  class Right {
   public:
    virtual ~Right() = default;  // passes it on, unless it is fulfilled
    virtual void Fulfilled() = 0;
  };

  Claim() = default;  // nothing
  Claim(std::string key, std::unique_ptr<Right> right);
  Claim(Claim&& other) noexcept;
  Claim& operator=(Claim&& other) noexcept;
  ~Claim();

  const std::string& key() const { return key_; }
  explicit operator bool() const { return right_ != nullptr; }

  // For transports.
  Right* right() const { return right_.get(); }
  // The key is there, or whoever took the claim over answers for it: nothing is left to give up.
  void Fulfilled();

 private:
  std::string key_;
  std::unique_ptr<Right> right_;
};

struct ComputeOptions {
  // How long to wait for others, computing not included; without it, the client's. Storing what was
  // computed has as long again.
  std::optional<absl::Duration> deadline = {};
  // How long one key may take to be computed here, from when it is won until it has room (over
  // gRPC: until it is put); then the claim passes on. At most an hour.
  absl::Duration claim_time = absl::Seconds(60);
};

// Where a computation puts its value. Valid during the call that it is handed to.
class ComputeSlot {
 public:
  virtual ~ComputeSlot() = default;

  virtual size_t index() const = 0;  // of the key in its batch
  virtual std::string_view key() const = 0;
  // Room for the value, filled before the computation returns OK: on the local lane the daemon's
  // own memory if it has room, for a minute (local.reservation_timeout: allocate after what takes
  // long), else this process's. Uninitialized. Once a computation. INVALID_ARGUMENT: of nothing, or
  // a second time. RESOURCE_EXHAUSTED: there is no memory.
  virtual absl::StatusOr<std::span<std::byte>> Allocate(uint64_t size_bytes,
                                                        const ObjectInfo& info = {},
                                                        std::vector<PartSpec> parts = {}) = 0;
};

// Computes the value of slot.key(). A failure passes the claim on and becomes the key's result.
using ComputeFunction = std::function<absl::Status(ComputeSlot& slot)>;

}  // namespace infercache

// A Device with a Client's words, as far as it can do what they say, so that the same tests speak
// to both. Values come from host memory and go back to it through the GPU's own, as a worker's
// kernels would write and read them.
//
// Thread-safety: one thread at a time.

#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cuda/context.h"
#include "infercache/client.h"
#include "infercache/device.h"

namespace infercache {

class DeviceClient {
 public:
  // Memory of this process's own in the GPU, which a test program has no other way to touch.
  class Staging;

  class Object {
   public:
    Object(DeviceObject object, std::shared_ptr<Staging> staging)
        : object_(std::move(object)), staging_(std::move(staging)) {}

    // As they are in the GPU now.
    std::span<const std::byte> bytes() const;
    std::span<const std::byte> part(size_t i) const;
    const std::vector<PartSpec>& parts() const { return object_.parts(); }
    const ObjectInfo& info() const { return object_.info(); }

   private:
    DeviceObject object_;
    std::shared_ptr<Staging> staging_;
    mutable std::vector<std::byte> bytes_;
  };
  struct GetResult {
    absl::Status status = {};
    std::optional<Object> object = {};

    bool hit() const { return object.has_value(); }
  };
  // What is written to bytes() is in the GPU when it is committed.
  class Reservation {
   public:
    explicit Reservation(DeviceReservation room)
        : bytes_(room.size_bytes()), room_(std::move(room)) {}

    std::span<std::byte> bytes() { return bytes_; }
    explicit operator bool() const { return static_cast<bool>(room_); }

   private:
    friend class DeviceClient;
    std::vector<std::byte> bytes_;
    DeviceReservation room_;
  };
  struct ReserveResult {
    absl::Status status = {};
    bool exists = false;
    std::optional<Reservation> reservation = {};
  };

  // With the first GPU of this process.
  static absl::StatusOr<std::unique_ptr<DeviceClient>> Connect(ClientOptions options);
  ~DeviceClient();

  GetResult Get(std::string_view key);
  std::vector<GetResult> Get(std::span<const std::string_view> keys);
  GetIntoResult GetInto(std::string_view key, std::span<std::byte> destination) {
    return device_->GetIntoHost(key, destination);
  }
  PutResult Put(const PutItem& item);
  std::vector<PutResult> Put(std::span<const PutItem> items);
  std::vector<ReserveResult> Reserve(std::span<const ReserveItem> items);
  std::vector<PutResult> Commit(std::span<Reservation> reservations);
  MatchResult Match(std::span<const std::string_view> keys) { return device_->Match(keys); }
  KeysResult Exists(std::span<const std::string_view> keys) { return device_->Exists(keys); }
  KeysResult Touch(std::span<const std::string_view> keys) { return device_->Touch(keys); }
  KeysResult Delete(std::span<const std::string_view> keys) { return device_->Delete(keys); }
  // A request over the device's session, behind all that were sent before.
  absl::Status Ping();

 private:
  DeviceClient(std::unique_ptr<Client> client, std::unique_ptr<Device> device,
               std::shared_ptr<Staging> staging);

  const std::unique_ptr<Client> client_;
  const std::unique_ptr<Device> device_;
  const std::shared_ptr<Staging> staging_;
};

}  // namespace infercache

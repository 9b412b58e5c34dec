#include "tests/conformance/device_client.h"

#include <algorithm>
#include <iterator>

#include "common/cuda/memory.h"
#include "common/status_macros.h"
#include "tests/or_die.h"

namespace infercache {
namespace {

constexpr size_t kMostAtOnce = 500;
constexpr size_t kMostBytes = size_t{2} << 20;

}  // namespace

// Grows to the largest value. Any failure of the driver ends the program.
class DeviceClient::Staging {
 public:
  Staging(std::shared_ptr<const cuda::Driver> driver, cuda::Device device)
      : driver_(std::move(driver)),
        device_(device),
        context_(OrDie(cuda::PrimaryContext::Retain(driver_, device))) {}

  void Write(DevicePointer to, std::span<const std::byte> bytes) {
    Copy([&](const cuda::Api& api) {
      return api.memcpy_htod_async(to, bytes.data(), bytes.size(), nullptr);
    });
  }
  void Read(DevicePointer from, std::span<std::byte> bytes) {
    Copy([&](const cuda::Api& api) {
      return api.memcpy_dtoh_async(bytes.data(), from, bytes.size(), nullptr);
    });
  }
  // Valid until the next call.
  DevicePointer Hold(std::span<const std::byte> bytes) {
    if (!memory_.has_value() || memory_->bytes() < bytes.size()) {
      const uint64_t unit = OrDie(cuda::Allocation::Granularity(*driver_, device_));
      const uint64_t room = (bytes.size() + unit - 1) / unit * unit;
      memory_ = OrDie(cuda::Mapping::Map(
          OrDie(cuda::Allocation::Create(driver_, device_, std::max(room, unit))), device_,
          cuda::Mapping::Access::kReadWrite));
    }
    if (!bytes.empty()) Write(memory_->address(), bytes);
    return memory_->address();
  }

 private:
  // And waits for it.
  template <class F>
  void Copy(F copy) {
    const cuda::CurrentContext current(*context_);
    OrDie(current.status());
    OrDie(driver_->Check(copy(driver_->api()), "a test's copy"));
    OrDie(driver_->Check(driver_->api().stream_synchronize(nullptr), "cuStreamSynchronize"));
  }

  const std::shared_ptr<const cuda::Driver> driver_;
  const cuda::Device device_;
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  std::optional<cuda::Mapping> memory_;
};

std::span<const std::byte> DeviceClient::Object::bytes() const {
  bytes_.resize(object_.size_bytes());
  staging_->Read(object_.address(), bytes_);
  return bytes_;
}

std::span<const std::byte> DeviceClient::Object::part(size_t i) const {
  return bytes().subspan(object_.part_address(i) - object_.address(), parts()[i].size_bytes);
}

DeviceClient::DeviceClient(std::unique_ptr<Client> client, std::unique_ptr<Device> device,
                           std::shared_ptr<Staging> staging)
    : client_(std::move(client)), device_(std::move(device)), staging_(std::move(staging)) {}
DeviceClient::~DeviceClient() = default;

absl::StatusOr<std::unique_ptr<DeviceClient>> DeviceClient::Connect(ClientOptions options) {
  ASSIGN_OR_RETURN(std::shared_ptr<const cuda::Driver> driver, cuda::Driver::Load());
  ASSIGN_OR_RETURN(const std::vector<cuda::DeviceInfo> gpus, cuda::ListDevices(*driver));
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Connect(std::move(options)));
  ASSIGN_OR_RETURN(std::unique_ptr<Device> device, client->OpenDevice(gpus.at(0).uuid));
  return std::unique_ptr<DeviceClient>(
      new DeviceClient(std::move(client), std::move(device),
                       std::make_shared<Staging>(std::move(driver), gpus[0].ordinal)));
}

DeviceClient::GetResult DeviceClient::Get(std::string_view key) {
  return std::move(Get(std::span(&key, 1))[0]);
}

std::vector<DeviceClient::GetResult> DeviceClient::Get(std::span<const std::string_view> keys) {
  std::vector<GetResult> results;
  for (DeviceGetResult& got : device_->Get(keys)) {
    GetResult& result = results.emplace_back();
    result.status = std::move(got.status);
    if (got.hit()) result.object.emplace(*std::move(got.object), staging_);
  }
  return results;
}

PutResult DeviceClient::Put(const PutItem& item) { return std::move(Put(std::span(&item, 1))[0]); }

// As many in a call as a session may have reserved, of the least tier that a test has.
std::vector<PutResult> DeviceClient::Put(std::span<const PutItem> items) {
  std::vector<PutResult> results;
  while (!items.empty()) {
    std::vector<std::byte> bytes;
    std::vector<DevicePutItem> puts;
    while (puts.size() < items.size() && puts.size() < kMostAtOnce && bytes.size() < kMostBytes) {
      const PutItem& item = items[puts.size()];
      const size_t first = bytes.size();
      for (const auto& piece : item.value) bytes.insert(bytes.end(), piece.begin(), piece.end());
      puts.push_back({.key = item.key,
                      .info = item.info,
                      .parts = item.parts,
                      .source = first,  // from where all are held
                      .size_bytes = bytes.size() - first,
                      .overwrite = item.overwrite});
    }
    const DevicePointer held = staging_->Hold(bytes);
    for (DevicePutItem& put : puts) put.source += held;
    std::ranges::move(device_->Put(puts, nullptr), std::back_inserter(results));
    items = items.subspan(puts.size());
  }
  return results;
}

std::vector<DeviceClient::ReserveResult> DeviceClient::Reserve(std::span<const ReserveItem> items) {
  std::vector<ReserveResult> results;
  for (DeviceReserveResult& reserved : device_->Reserve(items)) {
    ReserveResult& result = results.emplace_back();
    result.status = std::move(reserved.status);
    result.exists = reserved.exists;
    if (reserved.reservation) result.reservation.emplace(*std::move(reserved.reservation));
  }
  return results;
}

std::vector<PutResult> DeviceClient::Commit(std::span<Reservation> reservations) {
  std::vector<DeviceReservation> rooms;
  for (Reservation& reservation : reservations) {
    if (reservation) staging_->Write(reservation.room_.address(), reservation.bytes_);
    rooms.push_back(std::move(reservation.room_));
  }
  return device_->Commit(rooms, nullptr);
}

absl::Status DeviceClient::Ping() {
  const std::string_view nobody = "a key that nobody has";
  return device_->Delete({&nobody, 1}).status;
}

}  // namespace infercache

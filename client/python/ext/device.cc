#include "client/python/ext/device.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "client/python/ext/arguments.h"
#include "client/python/ext/device_reservation.h"
#include "client/python/ext/device_view.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/without_gil.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

// What an int or a str means.
absl::StatusOr<std::string> NameOf(nb::handle gpu) {
  if (PyUnicode_Check(gpu.ptr())) return std::string(KeyBytes(gpu));
  if (PyLong_Check(gpu.ptr()) && !PyBool_Check(gpu.ptr())) {
    const int ordinal = nb::cast<int>(gpu);
    nb::gil_scoped_release nogil;
    return DeviceUuid(ordinal);
  }
  throw nb::type_error("a GPU is 'auto', a UUID or its number in this process");
}

// The number under which this process sees the GPU.
absl::StatusOr<int> OrdinalOf(const std::string& uuid) {
  for (int ordinal = 0;; ++ordinal) {
    const absl::StatusOr<std::string> one = DeviceUuid(ordinal);
    if (!one.ok()) return one.status();
    if (*one == uuid) return ordinal;
  }
}

void ThrowIfNotOpened(const absl::Status& status) {
  ThrowIfCallersMistake(status);
  if (absl::IsResourceExhausted(status)) {
    PyErr_SetString(PyExc_MemoryError, std::string(status.message()).c_str());
    throw nb::python_error();
  }
  if (!status.ok()) ThrowDeviceError(status);
}

}  // namespace

OpenedDevice::~OpenedDevice() {
  const WithoutGil nogil;
  device.reset();
  client.reset();
}

std::shared_ptr<DeviceSlot> PyClient::OpenDevice(const std::string& gpu,
                                                 const DeviceOptions& options) {
  std::shared_ptr<Shared> shared = Use();
  absl::StatusOr<std::unique_ptr<Device>> device = absl::UnknownError("not called");
  {
    nb::gil_scoped_release nogil;
    device = shared->client->OpenDevice(gpu, options);
  }
  ThrowIfNotOpened(device.status());
  auto slot = std::make_shared<DeviceSlot>(
      DeviceSlot{std::make_shared<OpenedDevice>(std::move(shared), *std::move(device))});
  (void)Use();  // or it was closed meanwhile, and would never close this one
  std::erase_if(devices_, [](const auto& other) { return other.expired(); });
  devices_.push_back(slot);
  return slot;
}

PyDevice::PyDevice(PyClient& client, nb::handle gpu, bool register_host_memory)
    : stranded_(std::make_shared<Stranded>()), fork_epoch_(ForkEpoch()) {
  const absl::StatusOr<std::string> name = NameOf(gpu);
  ThrowIfNotOpened(name.status());
  slot_ = client.OpenDevice(*name, {.register_host_memory = register_host_memory});
  const std::string& uuid = slot_->opened->device->uuid();
  absl::StatusOr<int> ordinal = 0;
  {
    nb::gil_scoped_release nogil;
    ordinal = OrdinalOf(uuid);
  }
  ThrowIfNotOpened(ordinal.status());
  id_ = std::make_shared<const DeviceId>(DeviceId{uuid, *ordinal});
}

void PyDevice::Close() {
  if (slot_ != nullptr) std::exchange(slot_->opened, nullptr).reset();
}

std::shared_ptr<OpenedDevice> PyDevice::Use() const {
  if (fork_epoch_ != ForkEpoch()) {
    ThrowForked("this device was opened before a fork; connect again in the child");
  }
  if (slot_->opened == nullptr) ThrowClosed("the device, or its client, is closed");
  return slot_->opened;
}

void PyDevice::Note(const absl::Status& status) {
  if (status.ok()) return;
  ThrowIfCallersMistake(status);
  Remember(status);
}

void PyDevice::Remember(const absl::Status& status) {
  last_failure_ = std::make_unique<Failure>(CodeName(status), std::string(status.message()));
}

nb::dict PyDevice::Stats() const {
  const DeviceStats stats = Use()->device->stats();
  nb::dict result;
  result["chunks_mapped"] = stats.chunks_mapped;
  result["mapping_failures"] = stats.mapping_failures;
  result["host_to_device_copies"] = stats.host_to_device_copies;
  result["host_to_device_bytes"] = stats.host_to_device_bytes;
  result["device_to_host_copies"] = stats.device_to_host_copies;
  result["device_to_host_bytes"] = stats.device_to_host_bytes;
  result["host_chunks_registered"] = stats.host_chunks_registered;
  result["host_registration_failures"] = stats.host_registration_failures;
  result["held_for_streams"] = stats.held_for_streams;
  result["lent"] = stats.lent;
  result["lent_as_host_copies"] = stats.lent_as_host_copies;
  result["lend_host_copies"] = stats.lend_host_copies;
  result["lend_host_copies_bytes"] = stats.lend_host_copies_bytes;
  result["borrowed"] = stats.borrowed;
  result["allocations_opened"] = stats.allocations_opened;
  result["allocation_failures"] = stats.allocation_failures;
  result["borrows_not_opened"] = stats.borrows_not_opened;
  result["borrows_from_host"] = stats.borrows_from_host;
  result["borrows_from_host_bytes"] = stats.borrows_from_host_bytes;
  return result;
}

// --- Reads ---

nb::list PyDevice::Views(GetCall get, nb::handle keys, nb::handle stream, nb::handle owner,
                         nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  std::optional<DeviceStream> reader;
  if (!stream.is_none()) reader = ToReadersStream(nb::cast<uint64_t>(stream));
  std::vector<DeviceGetResult> results;
  {
    nb::gil_scoped_release nogil;
    stranded_->TryAgain();  // they count in the budget
    results = (*opened->device.*get)(list.keys(), call);
  }
  // Held before anything raises: what is dropped is to wait for its stream.
  std::vector<SharedPin> pins;
  bool checked = false;
  for (DeviceGetResult& result : results) {
    SharedPin& pin = pins.emplace_back();
    if (!result.hit()) continue;
    pin = std::make_shared<DevicePin>(*std::move(result.object), id_, stranded_);
    if (!reader) continue;
    if (!std::exchange(checked, true)) ThrowIfUnusable(*pin, *reader);
    pin->UsedBy(*reader, owner);
  }
  nb::list views;
  for (size_t i = 0; i < pins.size(); ++i) {
    if (pins[i] == nullptr) Note(results[i].status);
    views.append(pins[i] == nullptr ? nb::object(nb::none())
                                    : nb::cast(DeviceView(std::move(pins[i]))));
  }
  return views;
}

nb::list PyDevice::GetMany(nb::handle keys, nb::handle stream, nb::handle owner,
                           nb::handle deadline) {
  return Views(&Device::Get, keys, stream, owner, deadline);
}

nb::list PyDevice::BorrowMany(nb::handle keys, nb::handle stream, nb::handle owner,
                              nb::handle deadline) {
  return Views(&Device::Borrow, keys, stream, owner, deadline);
}

nb::object PyDevice::GetInto(nb::handle key, uint64_t address, uint64_t capacity, uint64_t stream,
                             nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const std::string_view bytes = KeyBytes(key);
  const CallOptions call = CallWith(deadline);
  DeviceGetIntoResult result;
  {
    nb::gil_scoped_release nogil;
    result = opened->device->GetInto(bytes, address, capacity, ToStream(stream), call);
  }
  if (!result.hit) Note(result.status);
  return result.hit ? nb::object(nb::int_(result.size_bytes)) : nb::none();
}

nb::object PyDevice::GetIntoHost(nb::handle key, nb::handle buffer, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const std::string_view bytes = KeyBytes(key);
  const Buffer to(buffer, Buffer::Access::kWrite);
  const CallOptions call = CallWith(deadline);
  GetIntoResult result;
  {
    nb::gil_scoped_release nogil;
    result = opened->device->GetIntoHost(bytes, to.writable_bytes(), call);
  }
  if (!result.hit) Note(result.status);
  return result.hit ? nb::object(nb::int_(result.size_bytes)) : nb::none();
}

size_t PyDevice::Match(nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  MatchResult result;
  {
    nb::gil_scoped_release nogil;
    result = opened->device->Match(list.keys(), call);
  }
  Note(result.status);
  return result.status.ok() ? result.prefix_length : 0;
}

nb::list PyDevice::Keys(PyClient::KeysCall which, nb::handle keys, nb::handle deadline) {
  using KeysCall = PyClient::KeysCall;
  const std::shared_ptr<OpenedDevice> opened = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  KeysResult result;
  {
    nb::gil_scoped_release nogil;
    Device& device = *opened->device;
    result = which == KeysCall::kExists   ? device.Exists(list.keys(), call)
             : which == KeysCall::kDelete ? device.Delete(list.keys(), call)
                                          : device.Touch(list.keys(), call);
  }
  Note(result.status);
  return FlagList(result, list.keys().size());
}

void PyDevice::Ping(nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const CallOptions call = CallWith(deadline);
  absl::Status status;
  {
    nb::gil_scoped_release nogil;
    const std::string_view any = "ping";
    status = opened->device->Exists({&any, 1}, call).status;
  }
  if (!status.ok()) ThrowDaemonError(status);
}

// --- Writes ---

nb::list PyDevice::PutMany(nb::handle items, uint64_t stream, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const DevicePutBatch batch(items);
  const CallOptions call = CallWith(deadline);
  std::vector<PutResult> results;
  {
    nb::gil_scoped_release nogil;
    results = opened->device->Put(batch.items(), ToStream(stream), call);
  }
  nb::list answers;
  for (const PutResult& result : results) answers.append(NotedAnswer(result));
  return answers;
}

nb::list PyDevice::ReserveMany(nb::handle items, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const DevicePutBatch batch(items);
  std::vector<ReserveItem> rooms;
  for (const DevicePutItem& item : batch.items()) {
    ReserveItem& room = rooms.emplace_back(ReserveItem{
        .key = item.key, .info = item.info, .parts = item.parts, .overwrite = item.overwrite});
    for (const DevicePiece& piece : item.pieces) room.size_bytes += piece.size_bytes;
  }
  const CallOptions call = CallWith(deadline);
  std::vector<DeviceReserveResult> results;
  {
    nb::gil_scoped_release nogil;
    stranded_->TryAgain();
    results = opened->device->Reserve(rooms, call);
  }
  nb::list reserved;
  for (size_t i = 0; i < results.size(); ++i) {
    DeviceReserveResult& result = results[i];
    if (result.reservation.has_value()) {
      DeviceRoom room{*std::move(result.reservation), std::move(rooms[i].parts)};
      reserved.append(nb::cast(PyDeviceReservation(
          std::make_shared<DevicePin>(std::move(room), id_, stranded_), nb::find(this))));
      continue;
    }
    if (result.exists) {
      Remember(absl::AlreadyExistsError("an object is there under the key, and stays"));
    }
    Note(result.status);
    reserved.append(nb::none());
  }
  return reserved;
}

nb::list PyDevice::CommitMany(nb::handle reservations, nb::handle stream, nb::handle deadline) {
  const nb::list all(reservations);  // which keeps them
  std::vector<PyDeviceReservation*> rooms;
  for (const nb::handle one : all) {
    PyDeviceReservation* room = nullptr;
    if (!nb::try_cast(one, room) || room == nullptr) {
      throw nb::type_error("what is committed is a DeviceReservation");
    }
    if (std::ranges::find(rooms, room) != rooms.end()) {
      throw nb::value_error("a reservation is there twice");
    }
    rooms.push_back(room);
  }
  nb::list answers;
  for (const PutResult& result : PyDeviceReservation::CommitAll(*this, rooms, stream, deadline)) {
    answers.append(NotedAnswer(result));
  }
  return answers;
}

nb::tuple PyDevice::NotedAnswer(const PutResult& result) {
  if (result.outcome == PutOutcome::kRefused) Note(result.status);
  return PutAnswer(result);
}

nb::list PyDevice::LendMany(nb::handle items, uint64_t stream, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const LendBatch batch(items);
  const CallOptions call = CallWith(deadline);
  std::vector<LendResult> results;
  {
    nb::gil_scoped_release nogil;
    results = opened->device->Lend(batch.items(), ToStream(stream), call);
  }
  nb::list answers;
  for (const LendResult& result : results) {
    // Nothing is raised: others of the batch are lent, and whoever keeps them has to know.
    if (!result.status.ok()) Remember(result.status);
    answers.append(nb::make_tuple(result.lent, result.may_be_lent, result.copied_to_host,
                                  CodeName(result.status), std::string(result.status.message())));
  }
  return answers;
}

std::string PyDevice::TakeBack(nb::handle key, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = Use();
  const std::string_view bytes = KeyBytes(key);
  const CallOptions call = CallWith(deadline);
  absl::Status status;
  {
    nb::gil_scoped_release nogil;
    status = opened->device->TakeBack(bytes, call);
  }
  Note(status);
  return CodeName(status);
}

}  // namespace infercache::python

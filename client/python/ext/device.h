// infercache._core._Device: a GPU's memory in the C++ client under Python's rules, which are those
// of PyClient. infercache.Device is thin over it.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>

#include "client/python/ext/client.h"
#include "client/python/ext/device_pin.h"
#include "infercache/device.h"

namespace infercache::python {

// An opened device and what keeps its client. Destroyed without the GIL, after the last call.
struct OpenedDevice {
  OpenedDevice(std::shared_ptr<void> c, std::unique_ptr<Device> d)
      : client(std::move(c)), device(std::move(d)) {}
  ~OpenedDevice();
  OpenedDevice(const OpenedDevice&) = delete;
  OpenedDevice& operator=(const OpenedDevice&) = delete;

  std::shared_ptr<void> client;
  std::unique_ptr<Device> device;
};

// Shared by a PyDevice and its client, which closes it: null then. With the GIL.
struct DeviceSlot {
  std::shared_ptr<OpenedDevice> opened;
};

class PyDevice {
 public:
  // `gpu`: "auto", a UUID, or a number. ValueError; DeviceError: no such GPU here.
  PyDevice(PyClient& client, nanobind::handle gpu, bool register_host_memory);
  ~PyDevice() { Close(); }
  PyDevice(const PyDevice&) = delete;
  PyDevice& operator=(const PyDevice&) = delete;

  void Close();
  bool closed() const { return slot_->opened == nullptr; }
  const DeviceId& id() const { return *id_; }
  nanobind::object last_failure() const { return FailureObject(last_failure_.get()); }
  nanobind::dict Stats() const;

  std::shared_ptr<OpenedDevice> Use() const;  // ClosedError, ForkedError

  // Streams are handles, None where no one is to be named.
  // Those of readers with their owners, None where nobody has to keep the stream.
  nanobind::list GetMany(nanobind::handle keys, nanobind::handle stream, nanobind::handle owner,
                         nanobind::handle deadline);
  nanobind::list BorrowMany(nanobind::handle keys, nanobind::handle stream, nanobind::handle owner,
                            nanobind::handle deadline);
  nanobind::object GetInto(nanobind::handle key, uint64_t address, uint64_t capacity,
                           uint64_t stream, nanobind::handle deadline);
  nanobind::object GetIntoHost(nanobind::handle key, nanobind::handle buffer,
                               nanobind::handle deadline);
  // `items`: as in DevicePutBatch. (outcome, code, reason) of each.
  nanobind::list PutMany(nanobind::handle items, uint64_t stream, nanobind::handle deadline);
  // `items`: as in DevicePutBatch, but without addresses. A DeviceReservation of each; None: there
  // is one already, or last_failure.
  nanobind::list ReserveMany(nanobind::handle items, nanobind::handle deadline);
  // `reservations`: of this device. (outcome, code, reason) of each.
  nanobind::list CommitMany(nanobind::handle reservations, nanobind::handle stream,
                            nanobind::handle deadline);
  // (outcome, code, reason); raises what is the caller's mistake.
  nanobind::tuple NotedAnswer(const PutResult& result);
  // `items`: as in LendBatch. The fields of infercache.LendResult of each.
  nanobind::list LendMany(nanobind::handle items, uint64_t stream, nanobind::handle deadline);
  // "OK", or a code that last_failure explains.
  std::string TakeBack(nanobind::handle key, nanobind::handle deadline);
  size_t Match(nanobind::handle keys, nanobind::handle deadline);
  nanobind::list Keys(PyClient::KeysCall call, nanobind::handle keys, nanobind::handle deadline);
  void Ping(nanobind::handle deadline);

 private:
  using GetCall = std::vector<DeviceGetResult> (Device::*)(std::span<const std::string_view>,
                                                           const CallOptions&);

  nanobind::list Views(GetCall call, nanobind::handle keys, nanobind::handle stream,
                       nanobind::handle owner, nanobind::handle deadline);
  void Note(const absl::Status& status);  // raises what is the caller's mistake
  void Remember(const absl::Status& status);

  std::shared_ptr<DeviceSlot> slot_;
  std::shared_ptr<const DeviceId> id_;
  const std::shared_ptr<Stranded> stranded_;
  const uint64_t fork_epoch_;
  std::unique_ptr<Failure> last_failure_;
};

void DefineDevice(nanobind::module_& m);

}  // namespace infercache::python

// infercache.DeviceReservation: room in a GPU's memory that the caller's kernels write in place.
//
// The room belongs to the reservation and to all that was made from it: parts, tensors of other
// libraries. Committing wants to be the last owner: what is committed is what every worker reads,
// and the room of what was not taken is soon another's, so that nobody may have it for writing.
// For the same reason the reservation itself has no __cuda_array_interface__, whose consumers keep
// the object that they asked and could not be told from the caller: its parts have.

#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <span>
#include <vector>

#include "client/python/ext/device_pin.h"
#include "client/python/ext/device_tensor.h"

namespace infercache::python {

class PyDevice;

class PyDeviceReservation {
 public:
  // `device` is the PyDevice, which is kept.
  PyDeviceReservation(SharedPin pin, nanobind::object device)
      : pin_(std::move(pin)), device_(std::move(device)) {}

  // ValueError: committed or abandoned. ForkedError.
  const SharedPin& pin() const;
  bool open() const { return state_ == State::kOpen; }
  DeviceTensor part(Py_ssize_t index) const;
  DeviceTensor only_part() const;

  // infercache.PutResult. If it is a stream that failed, the reservation is as before. BufferError:
  // something that was made from it is still there.
  nanobind::object Commit(nanobind::handle stream, nanobind::handle deadline);
  // The same of many of `device`, of which none is committed if one cannot be, or a stream failed.
  static std::vector<PutResult> CommitAll(PyDevice& device,
                                          std::span<PyDeviceReservation* const> rooms,
                                          nanobind::handle stream, nanobind::handle deadline);
  // Gives up its share. Idempotent.
  void Abandon();

 private:
  enum class State { kOpen, kCommitting, kOver };

  void CheckCommits(const PyDevice& device) const;

  SharedPin pin_;  // null unless it is open
  nanobind::object device_;
  State state_ = State::kOpen;
};

void DefineDeviceReservation(nanobind::module_& m);

}  // namespace infercache::python

// infercache.DeviceView: a cached object in a GPU's memory.
//
// The bytes belong to whatever was made from them last, as with View: a view, a part, a tensor of
// another library. Each keeps the pin until it dies, and device_pin.h says what becomes of it then.
// A view or part whose __cuda_array_interface__ was read has no share to give up before it dies:
// that protocol has no other way to keep memory than to keep the object that it came from.

#pragma once

#include <nanobind/nanobind.h>

#include "client/python/ext/device_pin.h"
#include "client/python/ext/device_tensor.h"

namespace infercache::python {

class DeviceView {
 public:
  explicit DeviceView(SharedPin pin) : pin_(std::move(pin)) {}

  // ValueError: released. ForkedError.
  const SharedPin& pin() const;
  const DeviceObject& object() const { return pin()->object(); }
  DeviceTensor part(Py_ssize_t index) const;
  DeviceTensor only_part() const;

  // Gives up the view's share. `also` is `owner`'s, or nobody's (none). If it is the last one,
  // errors of the streams are raised, and nothing has changed then.
  void Release(DeviceStream also, nanobind::handle owner = nanobind::none());
  bool released() const { return released_; }
  // REQUIRES: not released.
  bool inherited() const { return pin_->inherited(); }
  void InterfaceTaken() { interface_taken_ = true; }

 private:
  SharedPin pin_;
  bool released_ = false;
  bool interface_taken_ = false;
};

void DefineDeviceView(nanobind::module_& m);

}  // namespace infercache::python

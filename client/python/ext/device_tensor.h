// infercache.DeviceTensor: one part of an object in a GPU's memory, or of room for one, and the
// protocols by which other libraries take it. It is device_view.h and device_reservation.h that say
// what keeps the memory.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <utility>

#include "client/python/ext/device_pin.h"

namespace infercache::python {

// A number of a stream as DLPack and Python have it: 0 and 1 are the legacy default stream.
DeviceStream ToStream(uint64_t handle);
// Of one that uses what may be let go of by another thread. ValueError: the per-thread
// default stream, which would be that thread's then.
DeviceStream ToReadersStream(uint64_t handle);

// DeviceError: `stream` is being captured, and the graph would use the memory when it is another's.
// ValueError: it is none. The GIL is not held while the driver is asked: the caller has a share.
void ThrowIfUnusable(const DevicePin& pin, DeviceStream stream);
// `stream`, which is `owner`'s or nobody's (none), reads or writes it from now on, unless it
// cannot.
void UseIn(DevicePin& pin, DeviceStream stream, nanobind::handle owner = nanobind::none());
// A stream, or its handle, as Python has it; *owner is the object, or none.
DeviceStream StreamOf(nanobind::handle stream, nanobind::object* owner);

void ThrowIfInherited(const DevicePin& pin);  // ForkedError

class DeviceTensor {
 public:
  DeviceTensor(SharedPin pin, size_t part) : pin_(std::move(pin)), part_(part) {}

  // ForkedError.
  const SharedPin& pin() const {
    ThrowIfInherited(*pin_);
    return pin_;
  }
  size_t part() const { return part_; }
  const PartSpec& spec() const { return pin()->parts()[part_]; }
  DevicePointer address() const { return pin()->part_address(part_); }

 private:
  SharedPin pin_;
  size_t part_;
};

inline constexpr const char* kDlpackSignature =
    "def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = "
    "None, dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> typing.Any";
extern const char* const kDlpackDoc;
extern const char* const kInterfaceDoc;
extern const char* const kRecordStreamDoc;
// The pin is its own: what it asks Python may let go of another's.
void RecordStream(SharedPin pin, nanobind::handle stream);

// __dlpack__, whose arguments these are: BufferError.
nanobind::object DlpackOf(const DeviceTensor& tensor, nanobind::handle stream,
                          nanobind::handle max_version, nanobind::handle device,
                          nanobind::handle copy);
nanobind::tuple DlpackDeviceOf(const DeviceId& device);
// __dlpack__, of the part that `part` says, __dlpack_device__ and record_stream.
template <class T>
void DefineDlpack(nanobind::class_<T>& c, DeviceTensor (*part)(const T&)) {
  namespace nb = nanobind;
  c.def(
       "__dlpack__",
       [part](const T& self, nb::handle stream, nb::handle max_version, nb::handle device,
              nb::handle copy) { return DlpackOf(part(self), stream, max_version, device, copy); },
       nb::kw_only(), nb::arg("stream") = nb::none(), nb::arg("max_version") = nb::none(),
       nb::arg("dl_device") = nb::none(), nb::arg("copy") = nb::none(), nb::sig(kDlpackSignature),
       kDlpackDoc)
      .def(
          "__dlpack_device__", [](const T& self) { return DlpackDeviceOf(self.pin()->device()); },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"),
          "(2, ordinal): CUDA, and the GPU's number in this process.")
      .def(
          "record_stream",
          [](const T& self, nb::handle stream) { RecordStream(self.pin(), stream); },
          nb::arg("stream"), nb::sig("def record_stream(self, stream: typing.Any) -> None"),
          kRecordStreamDoc);
}
// __cuda_array_interface__: AttributeError where it cannot express the dtype.
nanobind::dict InterfaceOf(const DeviceTensor& tensor);

void DefineDeviceTensor(nanobind::module_& m);

}  // namespace infercache::python

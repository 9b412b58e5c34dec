#include "client/python/ext/device_tensor.h"

#include <nanobind/stl/string.h>

#include <string>

#include "client/python/ext/dlpack.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/parts.h"

namespace infercache::python {

namespace nb = nanobind;

namespace {

// What numpy calls the dtype, by which __cuda_array_interface__ does; null: it does not.
const char* TypeString(DataType dtype) {
  switch (dtype) {
    case DataType::kBytes:
    case DataType::kUInt8:
      return "|u1";
    case DataType::kBool:
      return "|b1";
    case DataType::kInt8:
      return "|i1";
    case DataType::kUInt16:
      return "<u2";
    case DataType::kInt16:
      return "<i2";
    case DataType::kUInt32:
      return "<u4";
    case DataType::kInt32:
      return "<i4";
    case DataType::kUInt64:
      return "<u8";
    case DataType::kInt64:
      return "<i8";
    case DataType::kFloat16:
      return "<f2";
    case DataType::kFloat32:
      return "<f4";
    case DataType::kFloat64:
      return "<f8";
    case DataType::kComplex64:
      return "<c8";
    case DataType::kComplex128:
      return "<c16";
    default:
      return nullptr;
  }
}

// Parts lie back to back. Kernels assume that elements are aligned, and a load that is not ends the
// context.
void ThrowIfMisaligned(const DeviceTensor& tensor) {
  const uint64_t size = ElementSize(tensor.spec().dtype);
  if (size > 1 && tensor.address() % size != 0) {
    throw nb::buffer_error(
        "the part follows one of odd size, and its elements are not aligned: torch() copies it; "
        "put "
        "what is read in place under a key of its own, or first");
  }
}

}  // namespace

DeviceStream ToStream(uint64_t handle) {
  // DLPack calls the legacy default stream 1, and the driver knows it as both.
  return handle == 1 ? nullptr : reinterpret_cast<DeviceStream>(static_cast<uintptr_t>(handle));
}

DeviceStream ToReadersStream(uint64_t handle) {
  constexpr uint64_t kPerThreadDefault = 2;  // DLPack's number and the driver's
  if (handle == kPerThreadDefault) {
    throw nb::value_error(
        "the per-thread default stream (2) is another one in each thread: what it uses could not "
        "wait for it; name a stream of its own");
  }
  return ToStream(handle);
}

void ThrowIfUnusable(const DevicePin& pin, DeviceStream stream) {
  const absl::Status status = pin.CheckNotCapturing(stream);
  ThrowIfCallersMistake(status);
  if (absl::IsFailedPrecondition(status)) ThrowDeviceError(status);
}

void UseIn(DevicePin& pin, DeviceStream stream, nb::handle owner) {
  ThrowIfUnusable(pin, stream);
  pin.UsedBy(stream, owner);
}

DeviceStream StreamOf(nb::handle stream, nb::object* owner) {
  nb::object module = nb::steal(PyImport_GetModule(nb::str("infercache._device").ptr()));
  if (!module.is_valid()) module = nb::module_::import_("infercache._device");
  const auto handle = nb::cast<uint64_t>(module.attr("stream_handle")(stream));
  *owner = PyLong_Check(stream.ptr()) ? nb::object(nb::none()) : nb::borrow(stream);
  return ToReadersStream(handle);
}

void ThrowIfInherited(const DevicePin& pin) {
  if (pin.inherited()) {
    ThrowForked("it was made before a fork; the GPU is not to be used in the child");
  }
}

const char* const kDlpackDoc =
    R"(A DLPack capsule; the memory stays what it is until its consumer lets go of it.

`stream`: what the consumer uses it in (None, 0, 1: the legacy default stream); it is waited for before the
bytes may be reused, or a reservation is committed. It says that an object is read-only where `max_version` is (1, 0)
or more. BufferError: a copy, or
another device, is asked for; or its elements are not aligned, since parts lie back to back. DeviceError: the
stream is being captured for a graph.)";
const char* const kRecordStreamDoc =
    "`stream` uses the memory too: it is waited for before the bytes may be reused, or a "
    "reservation is committed. A stream of torch or CuPy, which is kept until then; or a handle, "
    "whose stream must exist until this and what was made from it are gone. DeviceError: it is "
    "being captured for a graph.";
void RecordStream(SharedPin pin, nb::handle stream) {
  nb::object owner;
  const DeviceStream handle = StreamOf(stream, &owner);
  UseIn(*pin, handle, owner);
}
const char* const kInterfaceDoc =
    "Version 3; an object is read-only. Its consumer's stream is not known: say record_stream. "
    "AttributeError: bfloat16 or float8, which it cannot express. BufferError: its elements are "
    "not aligned.";

nb::dict InterfaceOf(const DeviceTensor& tensor) {
  const PartSpec& part = tensor.spec();
  const char* const type = TypeString(part.dtype);
  if (type == nullptr) {
    throw nb::attribute_error((std::string("__cuda_array_interface__ cannot express ") +
                               DataTypeName(part.dtype) + "; use DLPack, or torch()")
                                  .c_str());
  }
  ThrowIfMisaligned(tensor);
  nb::dict interface;
  interface["version"] = 3;
  interface["typestr"] = type;
  interface["shape"] =
      part.dtype == DataType::kBytes ? nb::make_tuple(part.size_bytes) : ShapeOf(part);
  interface["data"] =
      nb::make_tuple(part.size_bytes == 0 ? 0 : tensor.address(), !tensor.pin()->writable());
  interface["strides"] = nb::none();
  interface["stream"] = nb::none();  // complete: nothing has to be waited for
  return interface;
}

nb::object DlpackOf(const DeviceTensor& tensor, nb::handle stream, nb::handle max_version,
                    nb::handle device, nb::handle copy) {
  const SharedPin& pin = tensor.pin();
  ThrowIfMisaligned(tensor);
  if (copy.ptr() == Py_True) {
    throw nb::buffer_error("copies are the consumer's to make: torch(copy=True), or get_into");
  }
  if (!device.is_none() && !device.equal(nb::make_tuple(dlpack::kCuda, pin->device().ordinal))) {
    throw nb::buffer_error("the object is in this GPU's memory; copies are the consumer's to make");
  }
  const bool versioned = !max_version.is_none() && nb::cast<int>(max_version[0]) >= 1;
  // Written and complete before anybody could find it. The consumer's stream is what it will be
  // read in; -1 says that it will tell by itself.
  const int64_t handle = stream.is_none() ? 0 : nb::cast<int64_t>(stream);
  if (handle < -1) throw nb::value_error("a stream is -1 or a handle");
  if (handle >= 0) UseIn(*pin, ToReadersStream(static_cast<uint64_t>(handle)));
  return ExportPart(pin, tensor.part(), versioned, /*as_bytes=*/false);
}

nb::tuple DlpackDeviceOf(const DeviceId& device) {
  return nb::make_tuple(dlpack::kCuda, device.ordinal);
}

void DefineDeviceTensor(nb::module_& m) {
  nb::class_<DeviceTensor>(
      m, "DeviceTensor", nb::is_weak_referenceable(),
      R"(One part of a DeviceView or DeviceReservation, for libraries that know DLPack or __cuda_array_interface__.

Keeps the memory while it lives, and what is made from it does. `read_only`: that of a view is not to be changed.)")
      .def("__dlpack__", &DlpackOf, nb::kw_only(), nb::arg("stream") = nb::none(),
           nb::arg("max_version") = nb::none(), nb::arg("dl_device") = nb::none(),
           nb::arg("copy") = nb::none(), nb::sig(kDlpackSignature), kDlpackDoc)
      .def(
          "__dlpack_device__",
          [](const DeviceTensor& self) { return DlpackDeviceOf(self.pin()->device()); },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"),
          "(2, ordinal): CUDA, and the GPU's number in this process.")
      .def_prop_ro("__cuda_array_interface__", &InterfaceOf,
                   nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
                   kInterfaceDoc)
      .def(
          "_bytes_capsule",
          [](const DeviceTensor& self, uint64_t stream) {
            UseIn(*self.pin(), ToReadersStream(stream));
            return ExportPart(self.pin(), self.part(), /*versioned=*/false, /*as_bytes=*/true);
          },
          nb::arg("stream"))
      .def(
          "record_stream",
          [](const DeviceTensor& self, nb::handle stream) { RecordStream(self.pin(), stream); },
          nb::arg("stream"), nb::sig("def record_stream(self, stream: typing.Any) -> None"),
          kRecordStreamDoc)
      .def_prop_ro(
          "read_only", [](const DeviceTensor& self) { return !self.pin()->writable(); },
          "Whether it is of an object, and not of a reservation.")
      .def_prop_ro("address", &DeviceTensor::address, "In this process, of the first byte.")
      .def_prop_ro(
          "ordinal", [](const DeviceTensor& self) { return self.pin()->device().ordinal; },
          "The GPU's number in this process.")
      .def_prop_ro(
          "device_uuid", [](const DeviceTensor& self) { return self.pin()->device().uuid; },
          nb::sig("def device_uuid(self) -> str"), "The GPU's UUID.")
      .def_prop_ro(
          "dtype", [](const DeviceTensor& self) { return DataTypeName(self.spec().dtype); },
          nb::sig("def dtype(self) -> str"), "'float32', 'bfloat16', ..., 'bytes'.")
      .def_prop_ro(
          "shape", [](const DeviceTensor& self) { return ShapeOf(self.spec()); },
          nb::sig("def shape(self) -> tuple[int, ...]"), "() of a scalar and of plain bytes.")
      .def_prop_ro(
          "nbytes", [](const DeviceTensor& self) { return self.spec().size_bytes; }, "Its bytes.");
  m.def("_dlpack_describe", &DescribeCapsule, nb::arg("capsule"));
}

}  // namespace infercache::python

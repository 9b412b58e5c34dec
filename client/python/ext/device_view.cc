#include "client/python/ext/device_view.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>
#include <utility>

#include "client/python/ext/arguments.h"
#include "client/python/ext/dlpack.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/parts.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

constexpr const char* kForked =
    "this view was made before a fork; the GPU is not to be used in the child";

const SharedPin& Usable(const SharedPin& pin) {
  if (pin->inherited()) ThrowForked(kForked);
  return pin;
}

nb::object Helper(const char* name) {
  nb::object module = nb::steal(PyImport_GetModule(nb::str("infercache._device").ptr()));
  if (!module.is_valid()) module = nb::module_::import_("infercache._device");
  return module.attr(name);
}

DeviceStream StreamOf(nb::handle stream) {
  return ToStream(nb::cast<uint64_t>(Helper("stream_handle")(stream)));
}

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

nb::dict Interface(const DeviceTensor& tensor) {
  const PartSpec& part = tensor.spec();
  const char* const type = TypeString(part.dtype);
  if (type == nullptr) {
    throw nb::attribute_error((std::string("__cuda_array_interface__ cannot express ") +
                               DataTypeName(part.dtype) + "; use DLPack, or torch()")
                                  .c_str());
  }
  nb::dict interface;
  interface["version"] = 3;
  interface["typestr"] = type;
  interface["shape"] =
      part.dtype == DataType::kBytes ? nb::make_tuple(part.size_bytes) : ShapeOf(part);
  interface["data"] = nb::make_tuple(part.size_bytes == 0 ? 0 : tensor.address(), true);
  interface["strides"] = nb::none();
  interface["stream"] = nb::none();  // complete: nothing has to be waited for
  return interface;
}

nb::object DlpackOf(const DeviceTensor& tensor, nb::handle stream, nb::handle max_version,
                    nb::handle device, nb::handle copy) {
  const SharedPin& pin = tensor.pin();
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
  if (handle >= 0) pin->UsedBy(ToStream(static_cast<uint64_t>(handle)));
  return ExportPart(pin, tensor.part(), versioned, /*as_bytes=*/false);
}

// Copies one part into a writable buffer of its size.
void CopyPart(const DeviceView& view, Py_ssize_t index, nb::handle buffer) {
  const DeviceTensor tensor = view.part(index);  // has a share of the pin meanwhile
  const Buffer to(buffer, Buffer::Access::kWrite);
  const std::span<std::byte> bytes = to.writable_bytes();
  if (bytes.size() != tensor.spec().size_bytes) {
    throw nb::value_error("the buffer is not as large as the part");
  }
  const DeviceObject& object = tensor.pin()->object();
  const uint64_t offset = tensor.address() - object.address();
  absl::Status status;
  {
    nb::gil_scoped_release nogil;
    status = object.CopyToHost(offset, bytes);
  }
  if (!status.ok()) ThrowDeviceError(status);
}

nb::tuple DlpackDevice(const SharedPin& pin) {
  return nb::make_tuple(dlpack::kCuda, pin->device().ordinal);
}

std::string Repr(const DeviceView& view) {
  if (view.released()) return "<infercache.DeviceView, released>";
  const DeviceObject& object = view.object();
  return ReprOf("DeviceView", object.size_bytes(), object.parts()) + ", " +
         view.pin()->device().uuid + ">";
}

constexpr const char* kDlpackSignature =
    "def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = "
    "None, dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> typing.Any";
constexpr const char* kDlpackDoc =
    R"(A DLPack capsule; the object stays pinned until its consumer lets go of it.

`stream`: what the consumer reads it in (None, 0, 1: the legacy default stream); it is waited for before the
bytes may be reused. It says that it is read-only where `max_version` is (1, 0) or more. BufferError: a copy, or
another device, is asked for.)";
constexpr const char* kInterfaceDoc =
    "Version 3, read-only. Its consumer's stream is not known: say record_stream. AttributeError: "
    "bfloat16 or float8, which it cannot express.";

void DefineTensor(nb::module_& m) {
  nb::class_<DeviceTensor>(
      m, "DeviceTensor", nb::is_weak_referenceable(),
      R"(One part of a DeviceView, for libraries that know DLPack or __cuda_array_interface__.

Keeps the object pinned while it lives, and what is made from it does. Read-only: see DeviceView.)")
      .def("__dlpack__", &DlpackOf, nb::kw_only(), nb::arg("stream") = nb::none(),
           nb::arg("max_version") = nb::none(), nb::arg("dl_device") = nb::none(),
           nb::arg("copy") = nb::none(), nb::sig(kDlpackSignature), kDlpackDoc)
      .def(
          "__dlpack_device__", [](const DeviceTensor& self) { return DlpackDevice(self.pin()); },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"),
          "(2, ordinal): CUDA, and the GPU's number in this process.")
      .def_prop_ro("__cuda_array_interface__", &Interface,
                   nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
                   kInterfaceDoc)
      .def(
          "_bytes_capsule",
          [](const DeviceTensor& self, uint64_t stream) {
            self.pin()->UsedBy(ToStream(stream));
            return ExportPart(self.pin(), self.part(), /*versioned=*/false, /*as_bytes=*/true);
          },
          nb::arg("stream"))
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
}

using Class = nb::class_<DeviceView>;

// For other libraries.
void DefineExports(Class& c) {
  c.def("part", &DeviceView::part, nb::arg("part") = 0,
        nb::sig("def part(self, part: int = 0) -> DeviceTensor"),
        "One part, for libraries that know DLPack or __cuda_array_interface__. IndexError.")
      .def(
          "torch",
          [](nb::handle self, nb::handle part, nb::handle copy) {
            return Helper("view_to_torch")(self, part, copy);
          },
          nb::arg("part") = 0, nb::kw_only(), nb::arg("copy") = false,
          nb::sig("def torch(self, part: int = 0, *, copy: bool = False) -> _Tensor"),
          R"(One part as a CUDA tensor of the shape and dtype that was put, over the very same bytes.

It pins the object while it or what shares its storage lives. Its use in torch's current stream of this thread
is known; if kernels of another stream read it, say record_stream(stream) of the view, as one does with torch's
own tensors. Do not change it in place: it is what every other worker reads, and where the mapping is read-only
the process loses its CUDA context; copy=True gives a private one. ImportError: torch is not installed.
TypeError: this torch lacks the dtype. IndexError: no such part.)")
      .def(
          "numpy",
          [](nb::handle self, nb::handle part) { return Helper("view_to_numpy")(self, part); },
          nb::arg("part") = 0, nb::sig("def numpy(self, part: int = 0) -> _Array"),
          R"(One part copied into host memory, as a numpy array of the shape and dtype that was put.

Waits for the copy and for no stream of yours. TypeError: bfloat16 or float8 and no `ml_dtypes` installed.
DeviceError: the driver refuses. IndexError: no such part.)")
      .def("_copy_part", &CopyPart, nb::arg("part"), nb::arg("buffer"))
      .def(
          "__dlpack__",
          [](const DeviceView& self, nb::handle stream, nb::handle max_version, nb::handle device,
             nb::handle copy) {
            return DlpackOf(self.only_part(), stream, max_version, device, copy);
          },
          nb::kw_only(), nb::arg("stream") = nb::none(), nb::arg("max_version") = nb::none(),
          nb::arg("dl_device") = nb::none(), nb::arg("copy") = nb::none(),
          nb::sig(kDlpackSignature), kDlpackDoc)
      .def(
          "__dlpack_device__", [](const DeviceView& self) { return DlpackDevice(self.pin()); },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"),
          "(2, ordinal): CUDA, and the GPU's number in this process.")
      .def_prop_ro(
          "__cuda_array_interface__",
          [](DeviceView& self) {
            nb::dict interface = Interface(self.only_part());
            self.InterfaceTaken();
            return interface;
          },
          nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"), kInterfaceDoc);
}

void DefineLifetime(Class& c) {
  c.def(
       "record_stream",
       [](const DeviceView& self, nb::handle stream) { self.pin()->UsedBy(StreamOf(stream)); },
       nb::arg("stream"), nb::sig("def record_stream(self, stream: typing.Any) -> None"),
       "`stream` reads the object too: it is waited for before the bytes may be reused. A handle, "
       "or a "
       "stream of torch or CuPy; it must exist until the view and what was made from it are gone.")
      .def(
          "release_after",
          [](DeviceView& self, nb::handle stream) { self.Release(StreamOf(stream)); },
          nb::arg("stream"), nb::sig("def release_after(self, stream: typing.Any) -> None"),
          R"(Lets go of the bytes when `stream`, too, has done what it was given so far. Nobody waits.

Give the GPU nothing more that reads the view. What was made from it keeps the bytes while it lives.
ValueError: no such stream. DeviceError: the stream is being captured for a graph; nothing has changed then.)")
      .def(
          "release",
          [](DeviceView& self) {
            if (self.released()) return;
            uint64_t stream = 0;
            if (!self.inherited()) {
              stream =
                  nb::cast<uint64_t>(Helper("stream_to_wait_for")(self.pin()->device().ordinal));
            }
            self.Release(ToStream(stream));
          },
          nb::sig("def release(self) -> None"),
          "release_after() of torch's current stream in this thread if torch uses CUDA, else of "
          "the legacy "
          "default stream. Idempotent.")
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); },
          nb::sig("def __enter__(self) -> DeviceView"))
      .def(
          "__exit__", [](nb::handle self, nb::args) { self.attr("release")(); },
          nb::sig("def __exit__(self, *exc_info: object) -> None"))
      .def_prop_ro("released", &DeviceView::released, "Whether it was released.");
}

void DefineFacts(Class& c) {
  c.def("__repr__", &Repr)
      .def(
          "__reduce_ex__",
          [](nb::handle, nb::handle) -> nb::object {
            throw nb::type_error(
                "a DeviceView cannot be pickled: it is this process's pin; send the key");
          },
          nb::sig("def __reduce_ex__(self, protocol: typing.SupportsIndex, /) -> typing.NoReturn"))
      .def_prop_ro(
          "address", [](const DeviceView& self) { return self.object().address(); },
          "In this process, of the first byte; the parts lie back to back. A multiple of 256, "
          "unless another "
          "worker lends it. Who gives it to kernels says in which stream: record_stream, "
          "release_after.")
      .def_prop_ro(
          "nbytes", [](const DeviceView& self) { return self.object().size_bytes(); },
          "Bytes of all parts.")
      .def_prop_ro(
          "ordinal", [](const DeviceView& self) { return self.pin()->device().ordinal; },
          "The GPU's number in this process.")
      .def_prop_ro(
          "device_uuid", [](const DeviceView& self) { return self.pin()->device().uuid; },
          nb::sig("def device_uuid(self) -> str"), "The GPU's UUID.")
      .def_prop_ro(
          "parts", [](const DeviceView& self) { return PartList(self.object().parts()); },
          nb::sig("def parts(self) -> list[Part]"),
          "(dtype, shape, nbytes) of each part; never empty.")
      .def_prop_ro(
          "dtype",
          [](const DeviceView& self) {
            return DataTypeName(OnlyPart(self.object().parts()).dtype);
          },
          nb::sig("def dtype(self) -> str"),
          "Of the only part: 'float32', 'bfloat16', ..., 'bytes'. ValueError: several parts.")
      .def_prop_ro(
          "shape", [](const DeviceView& self) { return ShapeOf(OnlyPart(self.object().parts())); },
          nb::sig("def shape(self) -> tuple[int, ...]"),
          "Of the only part; () of a scalar and of plain bytes. ValueError: several parts.")
      .def_prop_ro(
          "kind", [](const DeviceView& self) { return ObjectKindName(self.object().info().kind); },
          nb::sig("def kind(self) -> str"), "'blob', 'kv', 'activation', 'embedding' or 'output'.")
      .def_prop_ro(
          "compute_cost_ms",
          [](const DeviceView& self) { return self.object().info().compute_cost_ms; },
          "What computing it took, as its writer said, in milliseconds.")
      .def_prop_ro(
          "ttl", [](const DeviceView& self) { return TtlSeconds(self.object().info()); },
          nb::sig("def ttl(self) -> float | None"),
          "Seconds that were left at the hit; None: it does not expire.");
}

}  // namespace

DeviceStream ToStream(uint64_t handle) {
  // DLPack calls the legacy default stream 1, and the driver knows it as both.
  return handle == 1 ? nullptr : reinterpret_cast<DeviceStream>(static_cast<uintptr_t>(handle));
}

const SharedPin& DeviceTensor::pin() const { return Usable(pin_); }

const SharedPin& DeviceView::pin() const {
  if (released_) throw nb::value_error("the view is released");
  return Usable(pin_);
}

DeviceTensor DeviceView::part(Py_ssize_t index) const {
  return DeviceTensor(pin(), PartIndex(object().parts(), index));
}

DeviceTensor DeviceView::only_part() const {
  (void)OnlyPart(object().parts());
  return DeviceTensor(pin(), 0);
}

void DeviceView::Release(DeviceStream also) {
  if (released_) return;
  released_ = true;
  if (pin_->inherited() || interface_taken_ || pin_.use_count() > 1) {
    pin_->UsedBy(also);
    if (!interface_taken_) pin_.reset();
    return;
  }
  // Out of the reach of other threads, which have the GIL meanwhile.
  SharedPin last = std::move(pin_);
  const absl::Status status = last->Release(also);
  if (status.ok()) return;
  pin_ = std::move(last);
  released_ = false;
  ThrowIfCallersMistake(status);
  ThrowDeviceError(status);
}

void DefineDeviceView(nb::module_& m) {
  DefineTensor(m);
  Class c(
      m, "DeviceView", nb::is_weak_referenceable(),
      R"(A cached object in a GPU's memory, or a tensor that another worker lends: immutable bytes.

`address`, DLPack, `__cuda_array_interface__` and `torch()` are the memory itself: nothing is copied. It stays
pinned until the view and every tensor made from it are gone, and then until the streams that were named have
done what they were given by then: the stream of the call that got it, those that consumers of DLPack gave,
`record_stream`, `release_after`. If none was named it is the legacy default stream. So a view may be dropped
while kernels that read it still run, if their stream is among these. Nobody waits.

How much one client may pin is bounded, as a rule to a quarter of the tier; beyond that gets are misses with
RESOURCE_EXHAUSTED. A view is a context manager. Any thread may use and drop it. After a fork the child's views
raise ForkedError. What a CUDA graph is to read has to be copied first: replays are not known to anybody.)");
  DefineExports(c);
  DefineLifetime(c);
  DefineFacts(c);
  m.def("_dlpack_describe", &DescribeCapsule, nb::arg("capsule"));
}

}  // namespace infercache::python

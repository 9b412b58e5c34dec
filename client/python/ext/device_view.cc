#include "client/python/ext/device_view.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>
#include <utility>

#include "client/python/ext/arguments.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/parts.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

nb::object Helper(const char* name) {
  nb::object module = nb::steal(PyImport_GetModule(nb::str("infercache._device").ptr()));
  if (!module.is_valid()) module = nb::module_::import_("infercache._device");
  return module.attr(name);
}

// Copies one part into a writable buffer of its size.
void CopyPart(const DeviceView& view, Py_ssize_t index, nb::handle buffer, double seconds) {
  if (!(seconds > 0)) throw nb::value_error("deadline must be positive (seconds)");
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
    status = object.CopyToHost(offset, bytes, absl::Seconds(seconds));
  }
  if (!status.ok()) ThrowDeviceError(status);
}

std::string Repr(const DeviceView& view) {
  if (view.released()) return "<infercache.DeviceView, released>";
  const DeviceObject& object = view.object();
  return ReprOf("DeviceView", object.size_bytes(), object.parts()) + ", " +
         view.pin()->device().uuid + ">";
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
is known; if kernels of another stream read it, say record_stream(stream) of the view: the tensor's own does
nothing for memory that is not torch's. Do not change it in place: it is what every other worker reads, and where the mapping is read-only
the process loses its CUDA context; copy=True gives a private one. ImportError: torch is not installed.
TypeError: this torch lacks the dtype. IndexError: no such part.)")
      .def(
          "numpy",
          [](nb::handle self, nb::handle part, nb::handle deadline) {
            return Helper("view_to_numpy")(self, part, deadline);
          },
          nb::arg("part") = 0, nb::kw_only(), nb::arg("deadline") = 5.0,
          nb::sig("def numpy(self, part: int = 0, *, deadline: float = 5.0) -> _Array"),
          R"(One part copied into host memory, as a numpy array of the shape and dtype that was put.

Waits for the copy and for no stream of yours. DeviceError DEADLINE_EXCEEDED: the GPU did not do it in `deadline`
seconds. TypeError: bfloat16 or float8 and no `ml_dtypes` installed.
DeviceError: the driver refuses. IndexError: no such part.)")
      .def("_copy_part", &CopyPart, nb::arg("part"), nb::arg("buffer"), nb::arg("deadline"))
      .def_prop_ro(
          "__cuda_array_interface__",
          [](DeviceView& self) {
            nb::dict interface = InterfaceOf(self.only_part());
            self.InterfaceTaken();
            return interface;
          },
          nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"), kInterfaceDoc);
  DefineDlpack<DeviceView>(c, [](const DeviceView& self) { return self.only_part(); });
}

void DefineLifetime(Class& c) {
  c.def(
       "release_after",
       [](DeviceView& self, nb::handle stream) {
         nb::object owner;
         const DeviceStream handle = StreamOf(stream, &owner);
         self.Release(handle, owner);
       },
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

const SharedPin& DeviceView::pin() const {
  if (released_) throw nb::value_error("the view is released");
  ThrowIfInherited(*pin_);
  return pin_;
}

DeviceTensor DeviceView::part(Py_ssize_t index) const {
  return DeviceTensor(pin(), PartIndex(object().parts(), index));
}

DeviceTensor DeviceView::only_part() const {
  (void)OnlyPart(object().parts());
  return DeviceTensor(pin(), 0);
}

void DeviceView::Release(DeviceStream also, nb::handle owner) {
  if (released_) return;
  if (!pin_->inherited() && (interface_taken_ || pin_.use_count() > 1)) {
    // Another thread, which has the GIL meanwhile, may release the view.
    const SharedPin mine = pin_;
    ThrowIfUnusable(*mine, also);
    if (released_) return;
  }
  released_ = true;
  if (pin_->inherited() || interface_taken_ || pin_.use_count() > 1) {
    pin_->UsedBy(also, owner);
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
}

}  // namespace infercache::python

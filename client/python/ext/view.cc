#include "client/python/ext/view.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>

#include "client/python/ext/arguments.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/filler.h"
#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/parts.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

constexpr const char* kForked =
    "this view was made before a fork; what it shows is not mapped in the child";

// (exporter, name of the dtype, shape): what infercache._arrays makes arrays of.
nb::tuple Part(const View& view, Py_ssize_t index, bool claims_writable) {
  const Object& object = view.object();
  const size_t i = PartIndex(view.parts(), index);
  const PartSpec& part = object.parts()[i];
  return nb::make_tuple(PartBytes(view.shared(), object.part(i), claims_writable),
                        DataTypeName(part.dtype), ShapeOf(part));
}

nb::object ToBytes(const View& view) {
  const SharedObject held = view.shared();  // another thread may release the view meanwhile
  const std::span<const std::byte> bytes = view.bytes();
  nb::object result =
      nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes.size())));
  if (!result.is_valid()) throw nb::python_error();
  char* to = PyBytes_AS_STRING(result.ptr());
  {
    nb::gil_scoped_release nogil;
    std::copy_n(reinterpret_cast<const char*>(bytes.data()), bytes.size(), to);
  }
  return result;
}

nb::object Array(nb::handle self, const char* function, nb::handle part, nb::handle copy) {
  // An import statement's work takes longer than all else here.
  nb::object module = nb::steal(PyImport_GetModule(nb::str("infercache._arrays").ptr()));
  if (!module.is_valid()) module = nb::module_::import_("infercache._arrays");
  return module.attr(function)(self, part, copy);
}

// A view of a private copy: of what was computed and could not be stored.
nb::object PrivateView(nb::handle parts, nb::handle info) {
  struct Copy : Object::Storage {
    std::vector<std::byte> bytes;
  };
  const Value value(parts);
  auto copy = std::make_unique<Copy>();
  copy->bytes.reserve(value.size_bytes());
  for (const std::span<const std::byte> piece : value.pieces()) {
    copy->bytes.insert(copy->bytes.end(), piece.begin(), piece.end());
  }
  const std::span<const std::byte> bytes = copy->bytes;
  return nb::cast(View(Object(bytes, value.parts(), InfoFrom(info), std::move(copy))));
}

// --- The buffer protocol ---

int FillBuffer(PyObject* self, Py_buffer* buffer, int flags, std::span<const std::byte> bytes,
               bool readonly) {
  return PyBuffer_FillInfo(buffer, self, const_cast<std::byte*>(bytes.data()),
                           static_cast<Py_ssize_t>(bytes.size()), readonly ? 1 : 0, flags);
}

// A slot must not throw.
int GetViewBuffer(PyObject* self, Py_buffer* buffer, int flags) {
  buffer->obj = nullptr;
  View& view = *nb::inst_ptr<View>(nb::handle(self));
  std::span<const std::byte> bytes;
  try {
    bytes = view.bytes();
  } catch (nb::python_error& error) {
    error.restore();
    return -1;
  } catch (const nb::builtin_exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return -1;
  }
  view.BufferTaken();
  return FillBuffer(self, buffer, flags, bytes, /*readonly=*/true);
}

int GetPartBuffer(PyObject* self, Py_buffer* buffer, int flags) {
  buffer->obj = nullptr;
  const PartBytes& part = *nb::inst_ptr<PartBytes>(nb::handle(self));
  if (part.inherited()) {
    PyErr_SetString(PyExc_BufferError, kForked);
    return -1;
  }
  return FillBuffer(self, buffer, flags, part.bytes(), !part.claims_writable());
}

PyType_Slot view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(GetViewBuffer)},
                            {0, nullptr}};
PyType_Slot part_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(GetPartBuffer)},
                            {0, nullptr}};

std::string Repr(const View& view) {
  if (view.released()) return "<infercache.View, released>";
  return ReprOf("View", view.bytes().size(), view.parts()) +
         (view.object().zero_copy() ? ", zero-copy>" : ", copied>");
}

}  // namespace

View::View(Object object)
    : object_(std::make_shared<const Object>(std::move(object))), fork_epoch_(ForkEpoch()) {}

const SharedObject& View::shared() const {
  if (fork_epoch_ != ForkEpoch()) ThrowForked(kForked);
  if (released_) throw nb::value_error("the view is released");
  return object_;
}

void View::Release() {
  released_ = true;
  if (!buffer_taken_) object_.reset();
}

std::span<const PartSpec> View::parts() const {
  const std::span<const PartSpec> stored = object().parts();
  return stored.first(ShownParts(stored));
}

std::span<const std::byte> View::bytes() const {
  const std::span<const std::byte> stored = object().bytes();
  return parts().size() == object().parts().size() ? stored : stored.first(stored.size() - 1);
}

PartBytes::PartBytes(SharedObject object, std::span<const std::byte> bytes, bool claims_writable)
    : object_(std::move(object)),
      bytes_(bytes),
      claims_writable_(claims_writable),
      fork_epoch_(ForkEpoch()) {}

bool PartBytes::inherited() const { return fork_epoch_ != ForkEpoch(); }

void DefineView(nb::module_& m) {
  nb::class_<PartBytes>(m, "_PartBytes", nb::type_slots(part_slots))
      .def_prop_ro("address", [](const PartBytes& self) {
        return reinterpret_cast<uintptr_t>(self.bytes().data());
      });

  nb::class_<View>(m, "View", nb::type_slots(view_slots), nb::is_weak_referenceable(),
                   R"(A cached object: immutable bytes, with the dtype and shape of each part.

The bytes are the daemon's memory itself (`zero_copy`), pinned, and stay valid until the view and
every array, tensor and buffer made from it are gone, whatever becomes of the client or the daemon.
How much one client may pin is bounded, as a rule to a quarter of the namespace's quota; beyond that
`get` hands out copies. Release views when you are done, or use them as context managers.

A view is a read-only buffer of all its bytes: `memoryview(view)`, `bytes(view)`, `file.write(view)`.
Any thread may use and drop it. After a fork the child's views raise ForkedError; arrays made from
them before the fork must not be touched in the child.)")
      .def(
          "numpy",
          [](nb::handle self, nb::handle part, nb::handle copy) {
            return Array(self, "view_to_numpy", part, copy);
          },
          nb::arg("part") = 0, nb::kw_only(), nb::arg("copy") = false,
          nb::sig("def numpy(self, part: int = 0, *, copy: bool = False) -> _Array"),
          R"(One part as a numpy array of the shape and dtype that was put.

Without copy a read-only array over the view's own bytes (writing to it raises ValueError); with
copy=True a private, writable one. A part of plain bytes is a one-dimensional uint8 array. TypeError:
bfloat16 or float8 and no `ml_dtypes` installed, which is what gives numpy these types. IndexError:
no such part.)")
      .def(
          "torch",
          [](nb::handle self, nb::handle part, nb::handle copy) {
            return Array(self, "view_to_torch", part, copy);
          },
          nb::arg("part") = 0, nb::kw_only(), nb::arg("copy") = false,
          nb::sig("def torch(self, part: int = 0, *, copy: bool = False) -> _Tensor"),
          R"(One part as a CPU tensor of the shape and dtype that was put.

Without copy a tensor over the view's own bytes. torch has no read-only tensors: writing to it in
place ends the process with SIGSEGV; use copy=True for a private one. ImportError: torch is not installed. TypeError: this torch
lacks the dtype. IndexError: no such part.)")
      .def("tobytes", &ToBytes, nb::sig("def tobytes(self) -> bytes"),
           "All parts back to back, copied.")
      .def("release", &View::Release, nb::sig("def release(self) -> None"),
           "Lets go of the bytes. What was made from the view keeps them while it lives. "
           "Idempotent.")
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); },
          nb::sig("def __enter__(self) -> View"))
      .def(
          "__exit__", [](View& self, nb::args) { self.Release(); },
          nb::sig("def __exit__(self, *exc_info: object) -> None"))
      .def("__len__", [](const View& self) { return self.bytes().size(); })
      .def("__repr__", &Repr)
      .def(
          "__reduce_ex__",
          [](nb::handle, nb::handle) -> nb::object {
            throw nb::type_error(
                "a View cannot be pickled: it is this process's pin; send the key, "
                "or .numpy(copy=True)");
          },
          nb::sig("def __reduce_ex__(self, protocol: typing.SupportsIndex, /) -> typing.NoReturn"))
      .def_prop_ro(
          "nbytes", [](const View& self) { return self.bytes().size(); }, "Bytes of all parts.")
      .def_prop_ro(
          "parts", [](const View& self) { return PartList(self.parts()); },
          nb::sig("def parts(self) -> list[Part]"),
          "(dtype, shape, nbytes) of each part; never empty.")
      .def_prop_ro(
          "dtype", [](const View& self) { return DataTypeName(OnlyPart(self.parts()).dtype); },
          nb::sig("def dtype(self) -> str"),
          "Of the only part: 'float32', 'bfloat16', ..., 'bytes'. ValueError: several parts.")
      .def_prop_ro(
          "shape", [](const View& self) { return ShapeOf(OnlyPart(self.parts())); },
          nb::sig("def shape(self) -> tuple[int, ...]"),
          "Of the only part; () of a scalar and of plain bytes. ValueError: several parts.")
      .def_prop_ro(
          "kind", [](const View& self) { return ObjectKindName(self.object().info().kind); },
          nb::sig("def kind(self) -> str"), "'blob', 'kv', 'activation', 'embedding' or 'output'.")
      .def_prop_ro(
          "compute_cost_ms", [](const View& self) { return self.object().info().compute_cost_ms; },
          "What computing it took, as its writer said, in milliseconds.")
      .def_prop_ro(
          "ttl", [](const View& self) { return TtlSeconds(self.object().info()); },
          nb::sig("def ttl(self) -> float | None"),
          "Seconds that were left at the hit; None: it does not expire.")
      .def_prop_ro(
          "zero_copy", [](const View& self) { return self.object().zero_copy(); },
          "Whether the bytes are the daemon's own memory.")
      .def_prop_ro("released", &View::released, "Whether release() was called.")
      .def("_part", &Part);
  m.def("_private_view", &PrivateView);
}

}  // namespace infercache::python

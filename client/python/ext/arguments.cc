#include "client/python/ext/arguments.h"

#include <algorithm>
#include <string>
#include <utility>

#include "client/python/ext/filler.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

// A tuple of what `iterable` yields.
nb::object TupleOf(nb::handle iterable, const char* what) {
  if (PyUnicode_Check(iterable.ptr()) || PyBytes_Check(iterable.ptr())) {
    throw nb::type_error(
        (std::string(what) + ": expected a sequence, got one " + Py_TYPE(iterable.ptr())->tp_name)
            .c_str());
  }
  nb::object tuple = nb::steal(PySequence_Tuple(iterable.ptr()));
  if (!tuple.is_valid()) throw nb::python_error();
  return tuple;
}

nb::handle Item(nb::handle tuple, Py_ssize_t i) { return PyTuple_GET_ITEM(tuple.ptr(), i); }

// The fields of a tuple that this package's own Python code made.
nb::handle Fields(nb::handle tuple, Py_ssize_t size) {
  if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != size) {
    throw nb::type_error("a description that infercache did not make");
  }
  return tuple;
}

uint64_t Unsigned(nb::handle number) {
  const unsigned long long value = PyLong_AsUnsignedLongLong(number.ptr());
  if (value == ~0ULL && PyErr_Occurred() != nullptr) throw nb::python_error();
  return value;
}

double Real(nb::handle number) {
  const double value = PyFloat_AsDouble(number.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) throw nb::python_error();
  return value;
}

// But for its bytes.
PartSpec SpecOf(nb::handle dtype, nb::handle shape) {
  PartSpec spec;
  spec.dtype = static_cast<DataType>(Unsigned(dtype));
  const nb::object sizes = TupleOf(shape, "shape");
  for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(sizes.ptr()); ++d) {
    spec.shape.push_back(Unsigned(Item(sizes, d)));
  }
  return spec;
}

// `value` is a number of HostCopy, to which Python's words were turned.
HostCopy HostCopyFrom(nb::handle value) { return static_cast<HostCopy>(nb::cast<int>(value)); }

}  // namespace

std::string_view KeyBytes(nb::handle key) {
  if (PyUnicode_Check(key.ptr())) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(key.ptr(), &size);
    if (data == nullptr) throw nb::python_error();
    return {data, static_cast<size_t>(size)};
  }
  if (PyBytes_Check(key.ptr())) {
    return {PyBytes_AS_STRING(key.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(key.ptr()))};
  }
  throw nb::type_error(
      (std::string("a key is str or bytes, not ") + Py_TYPE(key.ptr())->tp_name).c_str());
}

KeyList::KeyList(nb::handle keys) : owner_(TupleOf(keys, "keys")) {
  const Py_ssize_t count = PyTuple_GET_SIZE(owner_.ptr());
  keys_.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) keys_.push_back(KeyBytes(Item(owner_, i)));
}

Buffer::Buffer(nb::handle object, Access access) {
  auto view = std::make_unique<Py_buffer>();
  const int flags =
      access == Access::kWrite ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS;
  if (PyObject_GetBuffer(object.ptr(), view.get(), flags) != 0) throw nb::python_error();
  view_.reset(view.release());
}

void Buffer::Release::operator()(Py_buffer* view) const {
  PyBuffer_Release(view);
  delete view;
}

std::span<std::byte> Buffer::writable_bytes() const {
  return {static_cast<std::byte*>(view_->buf), static_cast<size_t>(view_->len)};
}

std::span<const std::byte> Buffer::bytes() const { return writable_bytes(); }

Destinations::Destinations(nb::handle buffers) {
  const nb::object tuple = TupleOf(buffers, "buffers");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.ptr()); ++i) {
    buffers_.emplace_back(Item(tuple, i), Buffer::Access::kWrite);
    spans_.push_back(buffers_.back().writable_bytes());
  }
}

Value::Value(nb::handle parts) {
  const nb::object tuple = TupleOf(parts, "parts");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.ptr()); ++i) {
    const nb::handle part = Fields(Item(tuple, i), 3);
    buffers_.emplace_back(Item(part, 0), Buffer::Access::kRead);
    Add(SpecOf(Item(part, 1), Item(part, 2)), buffers_.back().bytes());
  }
  static constexpr std::byte kFillerByte[1] = {};
  if (NeedsFiller(parts_)) Add(Filler(), kFillerByte);
}

void Value::Add(PartSpec spec, std::span<const std::byte> bytes) {
  spec.size_bytes = bytes.size();
  size_bytes_ += bytes.size();
  parts_.push_back(std::move(spec));
  pieces_.push_back(bytes);
}

DeviceValue::DeviceValue(nb::handle value) {
  const nb::object tuple = TupleOf(value, "parts");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.ptr()); ++i) {
    const nb::handle part = Fields(Item(tuple, i), 4);
    const DevicePiece piece = {.address = Unsigned(Item(part, 0)),
                               .size_bytes = Unsigned(Item(part, 1))};
    PartSpec& spec = parts.emplace_back(SpecOf(Item(part, 2), Item(part, 3)));
    spec.size_bytes = piece.size_bytes;
    pieces.push_back(piece);
  }
}

ObjectInfo InfoFrom(nb::handle info) {
  Fields(info, 5);
  ObjectInfo result;
  result.kind = static_cast<ObjectKind>(Unsigned(Item(info, 0)));
  result.compute_cost_ms = static_cast<float>(Real(Item(info, 1)));
  result.class_id = static_cast<uint8_t>(Unsigned(Item(info, 2)));
  result.ttl_ms = Unsigned(Item(info, 3));
  if (const nb::handle parent = Item(info, 4); !parent.is_none()) {
    result.parent_key = std::string(KeyBytes(parent));
  }
  return result;
}

PutBatch::PutBatch(nb::handle items) : owner_(TupleOf(items, "items")) {
  const Py_ssize_t count = PyTuple_GET_SIZE(owner_.ptr());
  values_.reserve(static_cast<size_t>(count));
  items_.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    const nb::handle item = Fields(Item(owner_, i), 4);
    const Value& value = values_.emplace_back(Item(item, 1));
    items_.push_back({.key = KeyBytes(Item(item, 0)),
                      .info = InfoFrom(Item(item, 2)),
                      .parts = value.parts(),
                      .value = value.pieces(),
                      .overwrite = Item(item, 3).ptr() == Py_True});
  }
}

DevicePutBatch::DevicePutBatch(nb::handle items) : owner_(TupleOf(items, "items")) {
  const auto is_empty = [](const DevicePiece& piece) { return piece.size_bytes == 0; };
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(owner_.ptr()); ++i) {
    const nb::handle item = Fields(Item(owner_, i), 4);
    DeviceValue value(Item(item, 1));
    if (std::ranges::all_of(value.pieces, is_empty)) {
      throw nb::value_error("an object in a GPU's memory has at least one byte; these are empty");
    }
    items_.push_back({.key = KeyBytes(Item(item, 0)),
                      .info = InfoFrom(Item(item, 2)),
                      .parts = std::move(value.parts),
                      .overwrite = Item(item, 3).ptr() == Py_True,
                      .pieces = std::move(value.pieces)});
  }
}

LendBatch::LendBatch(nb::handle items) : owner_(TupleOf(items, "items")) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(owner_.ptr()); ++i) {
    const nb::handle item = Fields(Item(owner_, i), 4);
    DeviceValue value(Item(item, 1));
    if (value.pieces.size() != 1) throw nb::value_error("one tensor is lent under a key");
    items_.push_back({.key = KeyBytes(Item(item, 0)),
                      .info = InfoFrom(Item(item, 2)),
                      .parts = std::move(value.parts),
                      .source = value.pieces[0].address,
                      .size_bytes = value.pieces[0].size_bytes,
                      .host_copy = HostCopyFrom(Item(item, 3))});
  }
}

CallOptions CallWith(nb::handle deadline) {
  if (deadline.is_none()) return {};
  const double seconds = Real(deadline);
  if (!(seconds > 0)) throw nb::value_error("deadline must be positive (seconds)");
  return {.deadline = absl::Seconds(seconds)};
}

}  // namespace infercache::python

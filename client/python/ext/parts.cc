#include "client/python/ext/parts.h"

#include <nanobind/stl/string.h>

#include <vector>

namespace infercache::python {

namespace nb = nanobind;

nb::tuple ShapeOf(const PartSpec& part) {
  nb::object shape = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(part.shape.size())));
  if (!shape.is_valid()) throw nb::python_error();
  for (size_t d = 0; d < part.shape.size(); ++d) {
    PyTuple_SET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(d),
                     PyLong_FromUnsignedLongLong(part.shape[d]));
  }
  return nb::borrow<nb::tuple>(shape);
}

nb::list PartList(std::span<const PartSpec> parts) {
  // Their own: what runs in Python meanwhile may let go of the object.
  const std::vector<PartSpec> copy(parts.begin(), parts.end());
  const nb::object type = nb::module_::import_("infercache._arrays").attr("Part");
  nb::list result;
  for (const PartSpec& part : copy) {
    result.append(type(DataTypeName(part.dtype), ShapeOf(part), part.size_bytes));
  }
  return result;
}

size_t PartIndex(std::span<const PartSpec> parts, Py_ssize_t index) {
  const auto count = static_cast<Py_ssize_t>(parts.size());
  if (index < 0) index += count;
  if (index < 0 || index >= count) {
    throw nb::index_error(("the object has " + std::to_string(count) + " parts").c_str());
  }
  return static_cast<size_t>(index);
}

PartSpec OnlyPart(std::span<const PartSpec> parts) {
  if (parts.size() != 1) {
    throw nb::value_error(
        ("the object has " + std::to_string(parts.size()) + " parts; ask `parts` for each")
            .c_str());
  }
  return parts[0];
}

nb::object TtlSeconds(const ObjectInfo& info) {
  if (info.ttl_ms == 0) return nb::none();
  return nb::float_(static_cast<double>(info.ttl_ms) / 1000);
}

std::string ReprOf(const char* name, uint64_t bytes, std::span<const PartSpec> parts) {
  std::string text = std::string("<infercache.") + name + " of " + std::to_string(bytes) + " bytes";
  if (parts.size() != 1) {
    text += " in " + std::to_string(parts.size()) + " parts";
  } else if (parts[0].dtype != DataType::kBytes) {
    text += std::string(", ") + DataTypeName(parts[0].dtype);
  }
  return text;
}

}  // namespace infercache::python

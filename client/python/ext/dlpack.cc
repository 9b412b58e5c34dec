#include "client/python/ext/dlpack.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace infercache::python {
namespace {

namespace nb = nanobind;

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";
constexpr uint64_t kReadOnly = 1;

enum Code : uint8_t {
  kInt = 0,
  kUnsigned = 1,
  kFloat = 2,
  kBFloat = 4,
  kComplex = 5,
  kBoolean = 6,
  kFloat8E4M3Fn = 10,
  kFloat8E5M2 = 12,
};

Code CodeOf(DataType dtype) {
  switch (dtype) {
    case DataType::kBool:
      return kBoolean;
    case DataType::kInt8:
    case DataType::kInt16:
    case DataType::kInt32:
    case DataType::kInt64:
      return kInt;
    case DataType::kFloat16:
    case DataType::kFloat32:
    case DataType::kFloat64:
      return kFloat;
    case DataType::kBFloat16:
      return kBFloat;
    case DataType::kFloat8E4M3:
      return kFloat8E4M3Fn;
    case DataType::kFloat8E5M2:
      return kFloat8E5M2;
    case DataType::kComplex64:
    case DataType::kComplex128:
      return kComplex;
    default:
      return kUnsigned;  // plain bytes among them
  }
}

template <class M>
struct Exported {
  SharedPin pin;
  std::vector<int64_t> shape, strides;
  M managed = {};
};

template <class M>
void Delete(M* managed) {
  delete static_cast<Exported<M>*>(managed->owner);
}

// Of a capsule that was never consumed: its consumer would have renamed it.
template <class M>
void DeleteCapsule(PyObject* capsule) {
  const char* const name = std::is_same_v<M, dlpack::Managed> ? kName : kVersionedName;
  if (PyCapsule_IsValid(capsule, name) == 0) return;
  auto* const managed = static_cast<M*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

template <class M>
nb::object Export(SharedPin pin, size_t index, bool as_bytes) {
  const PartSpec& part = pin->parts()[index];
  auto exported = std::make_unique<Exported<M>>();
  if (as_bytes || part.dtype == DataType::kBytes) {
    exported->shape = {static_cast<int64_t>(part.size_bytes)};
  } else {
    exported->shape.assign(part.shape.begin(), part.shape.end());
  }
  exported->strides.resize(exported->shape.size());
  int64_t stride = 1;
  for (size_t d = exported->shape.size(); d-- > 0; stride *= exported->shape[d]) {
    exported->strides[d] = stride;
  }
  const DataType dtype = as_bytes ? DataType::kUInt8 : part.dtype;
  const DevicePointer address = pin->part_address(index);
  M& managed = exported->managed;
  managed.tensor = {.data = reinterpret_cast<void*>(static_cast<uintptr_t>(address)),
                    .device = {dlpack::kCuda, pin->device().ordinal},
                    .rank = static_cast<int32_t>(exported->shape.size()),
                    .type = {CodeOf(dtype), static_cast<uint8_t>(8 * ElementSize(dtype)), 1},
                    .shape = exported->shape.data(),
                    .strides = exported->strides.data(),
                    .byte_offset = 0};
  managed.owner = exported.get();
  managed.deleter = Delete<M>;
  const char* name = kName;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    managed.version = {1, 0};
    managed.flags = pin->writable() ? 0 : kReadOnly;
    name = kVersionedName;
  }
  exported->pin = std::move(pin);
  nb::object capsule = nb::steal(PyCapsule_New(&managed, name, DeleteCapsule<M>));
  if (!capsule.is_valid()) throw nb::python_error();
  (void)exported.release();
  return capsule;
}

bool IsDense(const dlpack::Tensor& tensor) {
  if (tensor.strides == nullptr) return true;
  const bool empty =
      std::any_of(tensor.shape, tensor.shape + tensor.rank, [](int64_t n) { return n == 0; });
  int64_t stride = 1;
  for (int32_t d = tensor.rank; d-- > 0; stride *= tensor.shape[d]) {
    if (!empty && tensor.shape[d] != 1 && tensor.strides[d] != stride) return false;
  }
  return true;
}

}  // namespace

nb::object ExportPart(SharedPin pin, size_t part, bool versioned, bool as_bytes) {
  return versioned ? Export<dlpack::ManagedVersioned>(std::move(pin), part, as_bytes)
                   : Export<dlpack::Managed>(std::move(pin), part, as_bytes);
}

nb::tuple DescribeCapsule(nb::handle capsule) {
  const dlpack::Tensor* described = nullptr;
  bool read_only = false;
  if (PyCapsule_IsValid(capsule.ptr(), kName) != 0) {
    described =
        &static_cast<const dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), kName))->tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), kVersionedName) != 0) {
    const auto* const managed = static_cast<const dlpack::ManagedVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), kVersionedName));
    // The layout behind it is another version's.
    if (managed->version.major != 1) throw nb::type_error("a capsule of an unknown DLPack version");
    described = &managed->tensor;
    read_only = (managed->flags & kReadOnly) != 0;
  } else {
    throw nb::type_error("__dlpack__ did not return a DLPack capsule");
  }
  const dlpack::Tensor& tensor = *described;
  if (tensor.type.lanes != 1) throw nb::type_error("objects have no dtype of several lanes");
  if (!IsDense(tensor)) {
    throw nb::value_error("the tensor is not contiguous; make it so, with a copy");
  }
  nb::list shape;
  for (int32_t d = 0; d < tensor.rank; ++d) shape.append(tensor.shape[d]);
  const uint64_t address =
      static_cast<uint64_t>(reinterpret_cast<uintptr_t>(tensor.data)) + tensor.byte_offset;
  return nb::make_tuple(tensor.device.type, tensor.device.id, address, tensor.type.code,
                        tensor.type.bits, nb::tuple(shape), read_only);
}

}  // namespace infercache::python

// DLPack, the protocol by which array libraries hand each other memory: its structures, in our own
// words (https://dmlc.github.io/dlpack), and capsules of them.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "client/python/ext/device_pin.h"
#include "infercache/types.h"

namespace infercache::python {

namespace dlpack {

inline constexpr int32_t kCuda = 2;

struct Device {
  int32_t type;
  int32_t id;
};
struct Type {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t rank;
  Type type;
  int64_t* shape;
  int64_t* strides;  // in elements; null = dense
  uint64_t byte_offset;
};
struct Managed {
  Tensor tensor;
  void* owner;
  void (*deleter)(Managed*);
};
// Since 1.0.
struct ManagedVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* owner;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace dlpack

// A capsule of part `part` of a pinned object or of room, which stays so until its consumer lets
// go. `versioned`: as DLPack 1.0 has it, which can say that an object is read-only; `as_bytes`:
// one-dimensional uint8 whatever its dtype, which every consumer knows.
nanobind::object ExportPart(SharedPin pin, size_t part, bool versioned, bool as_bytes);

// Of a capsule that nobody has consumed, of either version: (device type, device id, address, code,
// bits, shape, whether it says that it is read-only).
// ValueError: not dense, or not C-contiguous. TypeError: no capsule.
nanobind::tuple DescribeCapsule(nanobind::handle capsule);

}  // namespace infercache::python

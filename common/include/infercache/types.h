// File: infercache/types.h
//
// The vocabulary that clients and the daemon share: what an object is made of and what is said
// about it. Plain value types; nothing here owns a resource or synchronizes anything.

#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace infercache {

// Element type of a tensor. kBytes marks opaque bytes, which have no shape. The numbers are on the
// wire (types.proto) and in shared memory: they never change meaning.
enum class DataType : uint8_t {
  kBytes = 0,
  kBool = 1,
  kUInt8 = 2,
  kInt8 = 3,
  kUInt16 = 4,
  kInt16 = 5,
  kUInt32 = 6,
  kInt32 = 7,
  kUInt64 = 8,
  kInt64 = 9,
  kFloat16 = 10,
  kBFloat16 = 11,
  kFloat32 = 12,
  kFloat64 = 13,
  kFloat8E4M3 = 14,
  kFloat8E5M2 = 15,
  kComplex64 = 16,
  kComplex128 = 17,
};
inline constexpr uint8_t kLastDataType = 17;

// Bytes of one element; 1 for kBytes.
uint64_t ElementSize(DataType dtype);
// "float32", "bfloat16", ... (numpy's and torch's names); "bytes" for kBytes.
const char* DataTypeName(DataType dtype);

// What an object holds. Only used for accounting and as a hint; never interpreted.
enum class ObjectKind : uint8_t {
  kBlob = 0,
  kKv = 1,
  kActivation = 2,
  kEmbedding = 3,
  kOutput = 4,
};
inline constexpr uint8_t kLastObjectKind = 4;
// "blob", "kv", "activation", "embedding", "output".
const char* ObjectKindName(ObjectKind kind);

// One part of an object: a dense row-major tensor, or opaque bytes (dtype kBytes, empty shape).
// The parts of an object lie back to back, in order, without padding.
struct PartSpec {
  DataType dtype = DataType::kBytes;
  std::vector<uint64_t> shape = {};  // elements per dimension; empty for a scalar and for kBytes
  uint64_t size_bytes = 0;           // for a tensor: product(shape) * ElementSize(dtype)

  friend bool operator==(const PartSpec&, const PartSpec&) = default;
};

// What the writer says about an object.
struct ObjectInfo {
  ObjectKind kind = ObjectKind::kBlob;
  float compute_cost_ms = 0;  // what recomputing it would cost; feeds "compute saved"
  uint8_t class_id = 0;       // opaque hint, 0..15
  uint64_t ttl_ms = 0;        // 0 = no expiry; the daemon rounds up to 100 ms
  std::string parent_key;     // the block before this one in its chain; empty = head or no chain

  friend bool operator==(const ObjectInfo&, const ObjectInfo&) = default;
};

// Model, revision, dtype, layout, block size, parallel rank, ... as key=value pairs. Order does not
// matter, keys are unique. Objects stored under one fingerprint are misses under every other.
using FingerprintEntries = std::vector<std::pair<std::string, std::string>>;

}  // namespace infercache

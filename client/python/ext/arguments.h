// What Python hands in, as the client wants it, kept alive and locked while the client uses it
// without the GIL. All of these are made and destroyed with the GIL held.

#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "infercache/client.h"
#include "infercache/device.h"

namespace infercache::python {

// The bytes of a key: bytes as they are, str as UTF-8. TypeError for anything else. Valid as long
// as `key` lives.
std::string_view KeyBytes(nanobind::handle key);

// An iterable of keys.
class KeyList {
 public:
  explicit KeyList(nanobind::handle keys);  // TypeError: not an iterable, or one str or bytes

  std::span<const std::string_view> keys() const { return keys_; }

 private:
  nanobind::object owner_;  // a tuple: a list could be changed meanwhile
  std::vector<std::string_view> keys_;
};

// An exported buffer, contiguous.
class Buffer {
 public:
  enum class Access { kRead, kWrite };

  // TypeError, BufferError: there is no contiguous buffer with that access.
  Buffer(nanobind::handle object, Access access);
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  std::span<const std::byte> bytes() const;
  std::span<std::byte> writable_bytes() const;

 private:
  struct Release {
    void operator()(Py_buffer* view) const;
  };
  std::unique_ptr<Py_buffer, Release> view_;  // its address is what an exporter may remember
};

// Buffers to be filled, one for each key.
class Destinations {
 public:
  explicit Destinations(nanobind::handle buffers);

  std::span<const std::span<std::byte>> spans() const { return spans_; }

 private:
  std::vector<Buffer> buffers_;
  std::vector<std::span<std::byte>> spans_;
};

// The value of an object, as infercache._arrays describes it: a sequence of (buffer, number of the
// dtype, shape).
class Value {
 public:
  explicit Value(nanobind::handle parts);

  const std::vector<PartSpec>& parts() const { return parts_; }
  const std::vector<std::span<const std::byte>>& pieces() const { return pieces_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  void Add(PartSpec spec, std::span<const std::byte> bytes);

  std::vector<Buffer> buffers_;
  std::vector<PartSpec> parts_;  // with a filler, if it takes one: see filler.h
  std::vector<std::span<const std::byte>> pieces_;
  uint64_t size_bytes_ = 0;
};

// The same in a GPU's memory, as infercache._device_arrays describes it: a sequence of (address,
// bytes, number of the dtype, shape). Whoever has the memory keeps it.
struct DeviceValue {
  explicit DeviceValue(nanobind::handle parts);

  std::vector<PartSpec> parts;
  std::vector<DevicePiece> pieces;
};

// (kind, compute cost in ms, class id, TTL in ms, parent key or None)
ObjectInfo InfoFrom(nanobind::handle info);

// Puts: a sequence of (key, parts, info, overwrite).
class PutBatch {
 public:
  explicit PutBatch(nanobind::handle items);

  std::span<const PutItem> items() const { return items_; }

 private:
  nanobind::object owner_;
  std::vector<Value> values_;
  std::vector<PutItem> items_;
};

// The same of values in a GPU's memory.
class DevicePutBatch {
 public:
  explicit DevicePutBatch(nanobind::handle items);  // ValueError: one has no byte

  std::span<const DevicePutItem> items() const { return items_; }

 private:
  nanobind::object owner_;
  std::vector<DevicePutItem> items_;
};

// What is lent: the same, with a number of HostCopy last.
class LendBatch {
 public:
  explicit LendBatch(nanobind::handle items);  // ValueError: one is of several tensors

  std::span<const LendItem> items() const { return items_; }

 private:
  nanobind::object owner_;
  std::vector<LendItem> items_;
};

// Seconds; None = the client's own. ValueError: not positive.
CallOptions CallWith(nanobind::handle deadline);

}  // namespace infercache::python

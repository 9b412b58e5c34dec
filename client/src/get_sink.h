// Where the bytes of hits go, and what becomes the caller's result: an Object that owns them (Get),
// or the caller's buffer (GetInto). Not thread-safe; used by one operation.

#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/transport.h"
#include "convert/types.h"

namespace infercache {

class GetSink {
 public:
  virtual ~GetSink() = default;

  // OUT_OF_RANGE if an object of this size can have no place. Remembers the size.
  virtual absl::Status Fits(size_t index, uint64_t size_bytes) = 0;
  // Memory for the bytes of a hit. RESOURCE_EXHAUSTED if there is none. REQUIRES: Fits().
  virtual absl::StatusOr<std::span<std::byte>> Allocate(size_t index, uint64_t size_bytes) = 0;
  // The allocated bytes are written.
  virtual void Hit(size_t index, ObjectDescription description) = 0;
  virtual void Fail(size_t index, const absl::Status& status) = 0;
  // Calls `done`. What was neither hit nor failed is a miss. Nothing follows.
  virtual void Deliver(Reached reached) = 0;
};

// An object whose bytes are in memory of this process.
Object HeapObject(std::unique_ptr<std::byte[]> bytes, uint64_t size_bytes,
                  std::vector<PartSpec> parts, ObjectInfo info);
absl::Status NoMemoryFor(uint64_t size_bytes);

class ObjectSink final : public GetSink {
 public:
  ObjectSink(size_t count, Done<std::vector<GetResult>> done);

  absl::Status Fits(size_t index, uint64_t size_bytes) override;
  absl::StatusOr<std::span<std::byte>> Allocate(size_t index, uint64_t size_bytes) override;
  void Hit(size_t index, ObjectDescription description) override;
  void Fail(size_t index, const absl::Status& status) override;
  void Deliver(Reached reached) override;

 private:
  std::vector<GetResult> results_;
  std::vector<std::unique_ptr<std::byte[]>> buffers_;
  Done<std::vector<GetResult>> done_;
};

class BufferSink final : public GetSink {
 public:
  BufferSink(std::vector<std::span<std::byte>> destinations, Done<std::vector<GetIntoResult>> done);

  absl::Status Fits(size_t index, uint64_t size_bytes) override;
  absl::StatusOr<std::span<std::byte>> Allocate(size_t index, uint64_t size_bytes) override;
  void Hit(size_t index, ObjectDescription description) override;
  void Fail(size_t index, const absl::Status& status) override;
  void Deliver(Reached reached) override;

 private:
  const std::vector<std::span<std::byte>> destinations_;
  std::vector<GetIntoResult> results_;
  Done<std::vector<GetIntoResult>> done_;
};

}  // namespace infercache

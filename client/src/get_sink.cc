#include "client/src/get_sink.h"

#include <new>

#include "absl/strings/str_cat.h"
#include "client/src/results.h"

namespace infercache {
namespace {

class HeapStorage final : public Object::Storage {
 public:
  explicit HeapStorage(std::unique_ptr<std::byte[]> bytes) : bytes_(std::move(bytes)) {}

 private:
  const std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace

Object HeapObject(std::unique_ptr<std::byte[]> bytes, uint64_t size_bytes,
                  std::vector<PartSpec> parts, ObjectInfo info) {
  const std::span<const std::byte> view(bytes.get(), size_bytes);
  return Object(view, std::move(parts), std::move(info),
                std::make_unique<HeapStorage>(std::move(bytes)));
}

absl::Status NoMemoryFor(uint64_t size_bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no memory for an object of ", size_bytes, " bytes"));
}

ObjectSink::ObjectSink(size_t count, Done<std::vector<GetResult>> done)
    : results_(count), buffers_(count), done_(std::move(done)) {}

absl::Status ObjectSink::Fits(size_t, uint64_t) { return absl::OkStatus(); }

absl::StatusOr<std::span<std::byte>> ObjectSink::Allocate(size_t index, uint64_t size_bytes) {
  // Uninitialized, and without an exception if a daemon claims an absurd size.
  buffers_[index].reset(new (std::nothrow) std::byte[size_bytes]);
  if (buffers_[index] == nullptr) return NoMemoryFor(size_bytes);
  return std::span(buffers_[index].get(), size_bytes);
}

void ObjectSink::Hit(size_t index, ObjectDescription description) {
  results_[index].object.emplace(HeapObject(std::move(buffers_[index]), description.size_bytes,
                                            std::move(description.parts),
                                            std::move(description.info)));
}

void ObjectSink::Fail(size_t index, const absl::Status& status) {
  buffers_[index].reset();
  results_[index].status = status;
}

void ObjectSink::Deliver(Reached reached) { done_(std::move(results_), reached); }

BufferSink::BufferSink(std::vector<std::span<std::byte>> destinations,
                       Done<std::vector<GetIntoResult>> done)
    : destinations_(std::move(destinations)),
      results_(destinations_.size()),
      done_(std::move(done)) {}

absl::Status BufferSink::Fits(size_t index, uint64_t size_bytes) {
  results_[index].size_bytes = size_bytes;
  if (size_bytes <= destinations_[index].size()) return absl::OkStatus();
  return TooLarge(size_bytes, destinations_[index].size());
}

absl::StatusOr<std::span<std::byte>> BufferSink::Allocate(size_t index, uint64_t size_bytes) {
  return destinations_[index].first(size_bytes);
}

void BufferSink::Hit(size_t index, ObjectDescription) { results_[index].hit = true; }

void BufferSink::Fail(size_t index, const absl::Status& status) { results_[index].status = status; }

void BufferSink::Deliver(Reached reached) { done_(std::move(results_), reached); }

}  // namespace infercache

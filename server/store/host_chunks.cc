#include <utility>

#include "absl/strings/str_cat.h"
#include "common/duplicate_fd.h"
#include "common/status_macros.h"
#include "server/store/chunks.h"

namespace infercache::store {
namespace {

class HostChunks final : public Chunks {
 public:
  explicit HostChunks(std::vector<MemorySegment> segments) : segments_(std::move(segments)) {}

  std::span<std::byte> bytes(uint32_t chunk) const override { return segments_[chunk].bytes(); }

  absl::StatusOr<UniqueFd> Open(uint32_t chunk, bool writable) const override {
    const MemorySegment& segment = segments_[chunk];
    if (!writable) return segment.OpenReadOnly();
    return Duplicate(segment.fd());
  }

 private:
  const std::vector<MemorySegment> segments_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Chunks>> MakeHostChunks(const std::string& name, uint64_t count,
                                                       uint64_t chunk_bytes,
                                                       const HostMemory& memory) {
  const auto access = memory.writable_by_clients ? MemorySegment::Access::kWritableForOthers
                                                 : MemorySegment::Access::kReadOnlyForOthers;
  // Before any of it is taken from others. Huge pages are counted where they are reserved.
  if (memory.pages != PageKind::kHugetlb) {
    RETURN_IF_ERROR(memory.populating.room.Check(count * chunk_bytes));
  }
  std::vector<MemorySegment> segments;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(MemorySegment segment,
                     MemorySegment::Create(absl::StrCat("infercache-arena-", name, "-", i),
                                           chunk_bytes, access, memory.pages));
    RETURN_IF_ERROR(segment.Populate(memory.populating));
    if (memory.locked) RETURN_IF_ERROR(segment.Lock());
    segments.push_back(std::move(segment));
  }
  return std::make_unique<HostChunks>(std::move(segments));
}

}  // namespace infercache::store

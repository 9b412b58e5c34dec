#include "common/shm/index_layout.h"

namespace infercache::shm {
namespace {

bool Fits(uint64_t offset, uint64_t count, uint64_t item_bytes, uint64_t segment_bytes) {
  uint64_t bytes = 0;
  uint64_t end = 0;
  return !__builtin_mul_overflow(count, item_bytes, &bytes) &&
         !__builtin_add_overflow(offset, bytes, &end) && end <= segment_bytes && offset % 64 == 0;
}

}  // namespace

bool CheckIndexHeader(const IndexHeader& h, uint64_t segment_bytes) {
  return h.magic == kIndexMagic && h.layout_version == kIndexLayoutVersion &&
         h.segment_bytes == segment_bytes && h.bucket_count != 0 &&
         Fits(h.buckets_offset, h.bucket_count, sizeof(Bucket), h.segment_bytes) &&
         Fits(h.overflow_offset, h.overflow_bucket_count, sizeof(Bucket), h.segment_bytes) &&
         Fits(h.records_offset, uint64_t{h.record_capacity} + 1, sizeof(Record), h.segment_bytes) &&
         Fits(h.heap_offset, h.heap_bytes, 1, h.segment_bytes);
}

bool CheckIndexHeader(std::span<const std::byte> memory) {
  return memory.size() >= kIndexPageBytes &&
         CheckIndexHeader(*reinterpret_cast<const IndexHeader*>(memory.data()), memory.size());
}

}  // namespace infercache::shm

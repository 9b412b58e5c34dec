#include "common/stream_copy.h"

#ifdef __SSE2__
#include <emmintrin.h>  // every x86-64 CPU has it
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace infercache {

#ifdef __SSE2__
void StreamCopy(std::byte* to, std::span<const std::byte> from) {
  constexpr size_t kLine = 64;
  constexpr size_t kWord = sizeof(__m128i);
  const size_t to_next_line = -reinterpret_cast<uintptr_t>(to) % kLine;
  const size_t head = std::min(to_next_line, from.size());
  if (head > 0) std::memcpy(to, from.data(), head);
  to += head;
  from = from.subspan(head);
  for (; from.size() >= kLine; to += kLine, from = from.subspan(kLine)) {
    const auto* source = reinterpret_cast<const __m128i*>(from.data());
    auto* line = reinterpret_cast<__m128i*>(to);
    __m128i words[kLine / kWord];
    for (size_t i = 0; i < kLine / kWord; ++i) words[i] = _mm_loadu_si128(source + i);
    for (size_t i = 0; i < kLine / kWord; ++i) _mm_stream_si128(line + i, words[i]);
  }
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}
void EndStreaming() { _mm_sfence(); }
#else
void StreamCopy(std::byte* to, std::span<const std::byte> from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}
void EndStreaming() {}
#endif

}  // namespace infercache

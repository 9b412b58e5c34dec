#include "client/src/value_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "common/stream_copy.h"

namespace infercache {
namespace {

std::string Digits(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>('0' + i * 7 % 79);
  return text;
}

// Large values take another way than small ones, and pieces begin at any address.
TEST(ValueReader, PutsPiecesIntoTheArenaAtEverySizeAndAlignment) {
  constexpr char kUntouched = '#';
  const std::string all = Digits(2 * kStreamFromBytes);
  for (const size_t size :
       {size_t{0}, size_t{100}, kStreamFromBytes - 1, kStreamFromBytes, kStreamFromBytes + 77}) {
    for (const size_t cut : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size}) {
      const std::string value = all.substr(0, size);
      const auto bytes = std::as_bytes(std::span(value));
      const size_t first = std::min(cut, size);
      const std::vector<std::span<const std::byte>> pieces = {
          bytes.first(first), {}, bytes.subspan(first)};
      for (const size_t shift : {0, 1, 16, 63}) {
        std::string to(shift + size + 1, kUntouched);
        ValueReader(pieces).ReadToArena(std::as_writable_bytes(std::span(to)).subspan(shift, size));
        ASSERT_EQ(to, std::string(shift, kUntouched) + value + kUntouched);
      }
    }
  }
}

TEST(ValueReader, GoesOnWhereItStopped) {
  const std::string value = Digits(100);
  const auto bytes = std::as_bytes(std::span(value));
  const std::vector<std::span<const std::byte>> pieces = {bytes.first(40), bytes.subspan(40)};
  ValueReader reader(pieces);
  std::string to(100, '\0');
  const auto destination = std::as_writable_bytes(std::span(to));
  reader.Read(destination.first(30));
  EXPECT_EQ(reader.remaining(), 70u);
  reader.ReadToArena(destination.subspan(30));
  EXPECT_EQ(reader.remaining(), 0u);
  EXPECT_EQ(to, value);
}

}  // namespace
}  // namespace infercache

#include "common/part_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

#include "common/limits.h"

namespace infercache {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

uint64_t Sum(const std::vector<PartSpec>& parts) {
  uint64_t bytes = 0;
  for (const PartSpec& part : parts) bytes += part.size_bytes;
  return bytes;
}

PartSpec Tensor(DataType dtype, std::vector<uint64_t> shape) {
  PartSpec part{dtype, std::move(shape), 0};
  EXPECT_TRUE(TensorBytes(part.dtype, part.shape, &part.size_bytes));
  return part;
}

PartSpec PlainBytes(uint64_t size) { return {DataType::kBytes, {}, size}; }

void ExpectRoundTrip(const std::vector<PartSpec>& parts) {
  const auto table = EncodePartTable(parts, Sum(parts));
  ASSERT_TRUE(table.ok()) << table.status();
  const auto decoded = DecodePartTable(*table);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, parts);
}

void ExpectRefused(const std::vector<PartSpec>& parts, uint64_t object_bytes,
                   const std::string& message_part) {
  const auto table = EncodePartTable(parts, object_bytes);
  EXPECT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(table.status().message()), HasSubstr(message_part));
}

TEST(PartTable, NoPartsIsAnEmptyTable) {
  EXPECT_THAT(*EncodePartTable({}, 12345), IsEmpty());
  EXPECT_THAT(*DecodePartTable(""), IsEmpty());
}

TEST(PartTable, EveryDtypeAndRank) {
  std::vector<PartSpec> parts = {PlainBytes(17)};
  for (int dtype = 1; dtype <= kLastDataType; ++dtype) {
    for (size_t rank = 0; rank <= kMaxRank; ++rank) {
      parts.push_back(Tensor(static_cast<DataType>(dtype), std::vector<uint64_t>(rank, 2)));
    }
  }
  ExpectRoundTrip(parts);
}

TEST(PartTable, EmptyPartsAreParts) {
  ExpectRoundTrip({PlainBytes(0), Tensor(DataType::kFloat32, {0}),
                   Tensor(DataType::kInt8, {3, 0, 5}), PlainBytes(1)});
}

TEST(PartTable, EqualNeighboursCollapse) {
  const std::vector<PartSpec> layers(kMaxParts, Tensor(DataType::kBFloat16, {2, 256, 8, 128}));
  const auto table = EncodePartTable(layers, Sum(layers));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_LE(table->size(), 16u);
  EXPECT_EQ(*DecodePartTable(*table), layers);
}

TEST(PartTable, OnlyNeighboursCollapse) {
  const PartSpec a = Tensor(DataType::kInt8, {4});
  const PartSpec b = Tensor(DataType::kUInt8, {4});
  const PartSpec c = Tensor(DataType::kInt8, {2, 2});
  ExpectRoundTrip({a, b, a, a, b, b, c, a, c});
}

TEST(PartTable, NumberOfPartsIsLimited) {
  const std::vector<PartSpec> most(kMaxParts, PlainBytes(1));
  EXPECT_TRUE(EncodePartTable(most, kMaxParts).ok());
  ExpectRefused(std::vector<PartSpec>(kMaxParts + 1, PlainBytes(1)), kMaxParts + 1,
                "4097 parts; the limit is 4096");
}

TEST(PartTable, EncodedSizeIsLimited) {
  std::vector<PartSpec> parts;  // 4 bytes each: no two neighbours are alike
  for (size_t i = 0; i < kMaxParts; ++i) parts.push_back(PlainBytes(1 + i % 2));
  ASSERT_TRUE(EncodePartTable(parts, Sum(parts)).ok());
  EXPECT_EQ(EncodePartTable(parts, Sum(parts))->size(), kMaxPartTableBytes);
  parts[0] = PlainBytes(1000);  // a varint of two bytes
  ExpectRefused(parts, Sum(parts), "16385 bytes; the limit is 16384");
}

TEST(PartTable, RankIsLimited) {
  ExpectRoundTrip({Tensor(DataType::kInt8, std::vector<uint64_t>(kMaxRank, 1))});
  ExpectRefused({PlainBytes(1), Tensor(DataType::kInt8, std::vector<uint64_t>(kMaxRank + 1, 1))}, 2,
                "part 1: rank 9; the limit is 8");
}

TEST(PartTable, SizeIsLimited) {
  ExpectRoundTrip({PlainBytes(kMaxObjectBytes)});
  ExpectRefused({PlainBytes(kMaxObjectBytes + 1)}, kMaxObjectBytes + 1, "part 0: size of");
  // A sum that wraps around to something plausible.
  ExpectRefused({PlainBytes(uint64_t{1} << 63), PlainBytes(uint64_t{1} << 63), PlainBytes(7)}, 7,
                "part 0");
}

TEST(PartTable, ShapeAndSizeMustAgree) {
  ExpectRefused({{DataType::kFloat32, {3}, 11}}, 11, "part 0: size of 11 bytes");
  ExpectRefused({{DataType::kFloat32, {}, 1}}, 1, "float32 make 4");
  ExpectRefused({{DataType::kBytes, {1}, 1}}, 1, "no shape");
  ExpectRefused({{static_cast<DataType>(kLastDataType + 1), {1}, 1}}, 1, "unknown dtype 18");
  ExpectRefused({{static_cast<DataType>(255), {1}, 1}}, 1, "unknown dtype 255");
}

TEST(PartTable, OverflowingShapesAreRefused) {
  const uint64_t big = uint64_t{1} << 32;
  ExpectRefused({{DataType::kInt8, {big, big}, 0}}, 0, "overflows");
  ExpectRefused({{DataType::kComplex128, {uint64_t{1} << 60}, 0}}, 0, "overflows");
  ExpectRefused({{DataType::kInt8, {big, big, 3}, 0}}, 0, "overflows");
  // An empty tensor is empty whatever else it says.
  ExpectRoundTrip({{DataType::kInt8, {big, big, 0}, 0}, PlainBytes(1)});
}

TEST(PartTable, PartsMustAddUpToTheObject) {
  ExpectRefused({PlainBytes(3), PlainBytes(4)}, 8, "add up to 7 bytes, the object has 8");
  ExpectRefused({PlainBytes(3), PlainBytes(4)}, 6, "add up to 7 bytes, the object has 6");
}

TEST(PartTable, DecodeRefusesWhatEncodeNeverWrites) {
  const auto refused = [](std::string table) {
    return DecodePartTable(table).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(std::string("\0\0\0\1", 4))) << "a run of no parts";
  EXPECT_TRUE(refused(std::string("\x81\x20\0\0\1", 5))) << "a run of 4097 parts";
  EXPECT_TRUE(refused(std::string("\x80\x20\0\0\1\1\0\0\2", 9))) << "4096 parts and one more";
  EXPECT_TRUE(refused(std::string("\1\x12\0", 3))) << "unknown dtype";
  EXPECT_TRUE(refused(std::string("\1\1\x09\1\1\1\1\1\1\1\1\1", 12))) << "rank 9";
  EXPECT_TRUE(refused(std::string("\1\0\1\1\1", 5))) << "plain bytes with a rank";
  EXPECT_TRUE(refused(std::string("\1\0\0\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\1", 14)))
      << "a varint of 11 bytes";
  EXPECT_TRUE(refused(std::string("\1\0\0\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02", 13)))
      << "a varint above 64 bits";
  EXPECT_TRUE(refused(std::string("\1\0\0\x81\x80\x80\x80\x80\x40", 9))) << "more than 1 TiB";
}

TEST(PartTable, EveryTruncationIsRefusedOrAnEarlierEnd) {
  const std::vector<PartSpec> parts = {Tensor(DataType::kFloat16, {300, 2}), PlainBytes(70'000),
                                       Tensor(DataType::kInt64, {1, 1, 129})};
  const std::string table = *EncodePartTable(parts, Sum(parts));
  for (size_t length = 0; length < table.size(); ++length) {
    const auto decoded = DecodePartTable(std::string_view(table).substr(0, length));
    if (!decoded.ok()) continue;
    // A cut between two runs cannot be told from a shorter list; anywhere else it must be.
    ASSERT_LT(decoded->size(), parts.size()) << length;
    EXPECT_TRUE(std::equal(decoded->begin(), decoded->end(), parts.begin())) << length;
  }
}

rc::Gen<PartSpec> AnyPart() {
  return rc::gen::exec([] {
    PartSpec part;
    part.dtype = static_cast<DataType>(*rc::gen::inRange(0, int{kLastDataType} + 1));
    if (part.dtype == DataType::kBytes) {
      part.size_bytes = *rc::gen::inRange<uint64_t>(0, kMaxObjectBytes + 1);
      return part;
    }
    const auto rank = *rc::gen::inRange<size_t>(0, kMaxRank + 1);
    for (size_t i = 0; i < rank; ++i) {
      part.shape.push_back(*rc::gen::weightedOneOf<uint64_t>(
          {{1, rc::gen::just<uint64_t>(0)}, {12, rc::gen::inRange<uint64_t>(1, 20)}}));
    }
    RC_ASSERT(TensorBytes(part.dtype, part.shape, &part.size_bytes));
    return part;
  });
}

RC_GTEST_PROP(PartTable, RoundTrips, ()) {
  std::vector<PartSpec> parts;
  const auto runs = *rc::gen::inRange(0, 20);
  for (int run = 0; run < runs; ++run) {
    const PartSpec part = *AnyPart();
    parts.insert(parts.end(), *rc::gen::inRange<size_t>(1, 5), part);
  }
  const auto table = EncodePartTable(parts, Sum(parts));
  RC_ASSERT(table.ok());
  const auto decoded = DecodePartTable(*table);
  RC_ASSERT(decoded.ok());
  RC_ASSERT(*decoded == parts);
}

RC_GTEST_PROP(PartTable, DecodeNeverTrusts, (const std::string& anything)) {
  const auto decoded = DecodePartTable(anything);
  if (!decoded.ok()) return;
  RC_ASSERT(decoded->size() <= kMaxParts);
  // Whatever it accepts is a description that Encode accepts as well.
  RC_ASSERT(EncodePartTable(*decoded, Sum(*decoded)).ok());
}

RC_GTEST_PROP(PartTable, DecodeSurvivesOneWrongByte, ()) {
  std::vector<PartSpec> parts;
  const auto count = *rc::gen::inRange<size_t>(1, 6);
  for (size_t i = 0; i < count; ++i) parts.push_back(*AnyPart());
  std::string table = *EncodePartTable(parts, Sum(parts));
  table[*rc::gen::inRange<size_t>(0, table.size())] = *rc::gen::arbitrary<char>();
  const auto decoded = DecodePartTable(table);
  if (decoded.ok()) RC_ASSERT(decoded->size() <= kMaxParts);
}

}  // namespace
}  // namespace infercache

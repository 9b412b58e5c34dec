#include "infercache/types.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace infercache {
namespace {

TEST(DataType, ElementSizes) {
  const std::pair<DataType, uint64_t> expected[] = {
      {DataType::kBytes, 1},      {DataType::kBool, 1},      {DataType::kUInt8, 1},
      {DataType::kInt8, 1},       {DataType::kUInt16, 2},    {DataType::kInt16, 2},
      {DataType::kUInt32, 4},     {DataType::kInt32, 4},     {DataType::kUInt64, 8},
      {DataType::kInt64, 8},      {DataType::kFloat16, 2},   {DataType::kBFloat16, 2},
      {DataType::kFloat32, 4},    {DataType::kFloat64, 8},   {DataType::kFloat8E4M3, 1},
      {DataType::kFloat8E5M2, 1}, {DataType::kComplex64, 8}, {DataType::kComplex128, 16},
  };
  EXPECT_EQ(std::size(expected), size_t{kLastDataType} + 1);
  for (const auto& [dtype, size] : expected) {
    EXPECT_EQ(ElementSize(dtype), size) << DataTypeName(dtype);
  }
}

TEST(DataType, NumbersAreOnTheWire) {
  EXPECT_EQ(static_cast<int>(DataType::kBytes), 0);
  EXPECT_EQ(static_cast<int>(DataType::kBFloat16), 11);
  EXPECT_EQ(static_cast<int>(DataType::kComplex128), int{kLastDataType});
}

TEST(DataType, NamesAreNumpysAndDistinct) {
  EXPECT_STREQ(DataTypeName(DataType::kBytes), "bytes");
  EXPECT_STREQ(DataTypeName(DataType::kBool), "bool");
  EXPECT_STREQ(DataTypeName(DataType::kFloat32), "float32");
  EXPECT_STREQ(DataTypeName(DataType::kBFloat16), "bfloat16");
  EXPECT_STREQ(DataTypeName(DataType::kFloat8E4M3), "float8_e4m3");
  std::set<std::string> names;
  for (int i = 0; i <= kLastDataType; ++i) {
    EXPECT_TRUE(names.insert(DataTypeName(static_cast<DataType>(i))).second) << i;
  }
}

TEST(ObjectKind, NamesAreDistinct) {
  EXPECT_STREQ(ObjectKindName(ObjectKind::kBlob), "blob");
  EXPECT_STREQ(ObjectKindName(ObjectKind::kKv), "kv");
  EXPECT_STREQ(ObjectKindName(ObjectKind::kActivation), "activation");
  EXPECT_STREQ(ObjectKindName(ObjectKind::kEmbedding), "embedding");
  EXPECT_STREQ(ObjectKindName(ObjectKind::kOutput), "output");
  EXPECT_EQ(static_cast<int>(ObjectKind::kOutput), int{kLastObjectKind});
}

TEST(PartSpec, ComparesEveryField) {
  const PartSpec part{DataType::kFloat16, {2, 3}, 12};
  EXPECT_EQ(part, (PartSpec{DataType::kFloat16, {2, 3}, 12}));
  EXPECT_NE(part, (PartSpec{DataType::kBFloat16, {2, 3}, 12}));
  EXPECT_NE(part, (PartSpec{DataType::kFloat16, {3, 2}, 12}));
  EXPECT_NE(part, (PartSpec{DataType::kFloat16, {2, 3}, 13}));
}

}  // namespace
}  // namespace infercache

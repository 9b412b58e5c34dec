#include "client/src/put_request.h"

#include <gtest/gtest.h>

#include "client/src/remote_call.h"
#include "convert/types.h"
#include "infercache/v1/cache.pb.h"
#include "tests/client/client_testing.h"

namespace infercache {
namespace {

template <typename Message>
Message Parsed(grpc::ByteBuffer buffer) {
  Message message;
  const absl::Status status = Parse(buffer, &message);
  EXPECT_TRUE(status.ok()) << status;
  return message;
}

PutItem TensorItem() {
  PutItem item;
  item.key = "block/1";
  item.info = {.kind = ObjectKind::kKv,
               .compute_cost_ms = 2.5f,
               .class_id = 3,
               .ttl_ms = 1000,
               .parent_key = "block/0"};
  item.parts = {{.dtype = DataType::kInt16, .shape = {2, 2}, .size_bytes = 8},
                {.dtype = DataType::kBytes, .shape = {}, .size_bytes = 3}};
  item.value = {Bytes("01234"), Bytes(""), Bytes("567"), Bytes("xyz")};
  item.overwrite = true;
  return item;
}

// What Protobuf reads is what was meant: the message is written by hand.
TEST(PutRequest, IsWhatProtobufWouldHaveWritten) {
  PutItem plain;
  plain.key = "k";
  const std::string long_value(70'000, 'l');
  plain.value = {Bytes(long_value)};
  const std::vector<PutItem> items = {TensorItem(), plain};
  const auto request = Parsed<v1::PutRequest>(MakePutRequest(ToScope("ns", {{"a", "b"}}), items));
  EXPECT_EQ(request.scope().namespace_(), "ns");
  ASSERT_EQ(request.scope().fingerprint_size(), 1);
  ASSERT_EQ(request.items_size(), 2);
  const v1::PutItem& tensor = request.items(0);
  EXPECT_EQ(tensor.key(), "block/1");
  EXPECT_EQ(tensor.value(), "01234567xyz");
  EXPECT_TRUE(tensor.overwrite());
  EXPECT_EQ(tensor.info().kind(), v1::OBJECT_KIND_KV);
  EXPECT_EQ(tensor.info().compute_cost_ms(), 2.5f);
  EXPECT_EQ(tensor.info().class_id(), 3u);
  EXPECT_EQ(tensor.info().ttl_ms(), 1000u);
  EXPECT_EQ(tensor.info().parent_key(), "block/0");
  ASSERT_EQ(tensor.parts_size(), 2);
  EXPECT_EQ(tensor.parts(0).dtype(), v1::DATA_TYPE_INT16);
  EXPECT_EQ(tensor.parts(0).shape_size(), 2);
  EXPECT_EQ(tensor.parts(1).size_bytes(), 3u);
  EXPECT_EQ(request.items(1).value(), long_value);
  EXPECT_FALSE(request.items(1).overwrite());
}

TEST(PutRequest, AnEmptyValueIsSentAsOne) {
  PutItem item;
  item.key = "k";
  const auto request = Parsed<v1::PutRequest>(MakePutRequest(v1::Scope(), std::span(&item, 1)));
  ASSERT_EQ(request.items_size(), 1);
  EXPECT_EQ(request.items(0).value(), "");
}

TEST(PutStream, HeaderAndChunksMakeTheValue) {
  const PutItem item = TensorItem();
  const auto header = Parsed<v1::PutStreamRequest>(
                          MakePutStreamHeader(ToScope("ns", {}), item, /*ends_request=*/true))
                          .header();
  EXPECT_EQ(header.key(), "block/1");
  EXPECT_EQ(header.size_bytes(), 11u);
  EXPECT_EQ(header.parts_size(), 2);
  EXPECT_TRUE(header.overwrite());
  EXPECT_TRUE(header.ends_request());
  for (size_t chunk = 1; chunk <= 11; ++chunk) {
    ValueReader reader(item.value);
    std::string value;
    while (reader.remaining() > 0) {
      const size_t bytes = std::min<size_t>(chunk, reader.remaining());
      value += Parsed<v1::PutStreamRequest>(MakePutStreamChunk(reader, bytes)).chunk();
    }
    EXPECT_EQ(value, "01234567xyz") << chunk;
  }
}

}  // namespace
}  // namespace infercache

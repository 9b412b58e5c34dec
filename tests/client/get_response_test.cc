#include "client/src/get_response.h"

#include <gtest/gtest.h>

#include <random>

#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

std::vector<WireCursor::Piece> AsPieces(const std::string& text) {
  return {std::as_bytes(std::span(text))};
}

// A hit of one float32 [2, 3] and 4 plain bytes.
v1::GetResult Hit() {
  v1::GetResult result;
  result.set_found(true);
  v1::ObjectDescription& object = *result.mutable_object();
  object.mutable_info()->set_kind(v1::OBJECT_KIND_KV);
  object.mutable_info()->set_class_id(15);
  object.set_size_bytes(28);
  v1::PartSpec& tensor = *object.add_parts();
  tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
  tensor.add_shape(2);
  tensor.add_shape(3);
  tensor.set_size_bytes(24);
  object.add_parts()->set_size_bytes(4);
  result.set_value(std::string(28, 'v'));
  return result;
}

std::string Serialized(const v1::GetResult& result) {
  v1::GetResponse response;
  *response.add_results() = result;
  return response.SerializeAsString();
}

absl::Status ParseText(const std::string& text, size_t expected) {
  const auto pieces = AsPieces(text);
  return ParseGetResponse(WireCursor(pieces), expected).status();
}

TEST(GetResponse, DecodesHitsAndMisses) {
  v1::GetResponse response;
  *response.add_results() = Hit();
  response.add_results();
  const std::string text = response.SerializeAsString();
  const auto pieces = AsPieces(text);
  const auto results = ParseGetResponse(WireCursor(pieces), 2);
  ASSERT_TRUE(results.ok()) << results.status();
  const ReceivedResult& hit = results->front();
  EXPECT_TRUE(hit.found);
  EXPECT_EQ(hit.description.info.kind, ObjectKind::kKv);
  EXPECT_EQ(hit.description.info.class_id, 15);
  ASSERT_EQ(hit.description.parts.size(), 2u);
  EXPECT_EQ(hit.description.parts[0].dtype, DataType::kFloat32);
  EXPECT_EQ(hit.description.parts[0].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(hit.value.ToString(), std::string(28, 'v'));
  EXPECT_FALSE(results->back().found);
}

TEST(GetResponse, AnObjectWithoutPartsHasOne) {
  v1::GetResult result = Hit();
  result.mutable_object()->clear_parts();
  const std::string text = Serialized(result);
  const auto pieces = AsPieces(text);
  const auto results = ParseGetResponse(WireCursor(pieces), 1);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->front().description.parts.size(), 1u);
  EXPECT_EQ(results->front().description.parts[0].size_bytes, 28u);
}

TEST(GetResponse, RefusesTheWrongNumberOfResults) {
  const std::string one = Serialized(Hit());
  EXPECT_TRUE(ParseText(one, 1).ok());
  EXPECT_FALSE(ParseText(one, 2).ok());
  EXPECT_FALSE(ParseText(one + one, 1).ok());
  EXPECT_FALSE(ParseText("", 1).ok());
  EXPECT_TRUE(ParseText("", 0).ok());
}

TEST(GetResponse, RefusesWhatDoesNotAddUp) {
  const auto refused = [](auto change) {
    v1::GetResult result = Hit();
    change(result);
    return !ParseText(Serialized(result), 1).ok();
  };
  ASSERT_FALSE(refused([](v1::GetResult&) {}));
  using R = v1::GetResult;
  EXPECT_TRUE(refused([](R& r) { r.set_value("short"); }));
  EXPECT_TRUE(refused([](R& r) { r.clear_value(); }));
  EXPECT_FALSE(refused([](R& r) { r.clear_value(), r.set_value_omitted(true); }));
  EXPECT_TRUE(refused([](R& r) { r.clear_object(); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->set_size_bytes(27); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_parts(1)->set_size_bytes(5); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_parts(1)->set_size_bytes(~0ull); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_parts(0)->set_shape(0, 3); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_parts(0)->set_shape(0, ~0ull); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_parts(1)->add_shape(4); }));
  EXPECT_TRUE(
      refused([](R& r) { r.mutable_object()->mutable_parts(0)->set_dtype(v1::DataType(18)); }));
  EXPECT_TRUE(refused([](R& r) { r.mutable_object()->mutable_info()->set_class_id(16); }));
  EXPECT_TRUE(
      refused([](R& r) { r.mutable_object()->mutable_info()->set_kind(v1::ObjectKind(5)); }));
}

TEST(GetResponse, NoTruncationAndNoMutationCrashesOrReadsTooFar) {
  std::minstd_rand random(11);
  const std::string whole = Serialized(Hit());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(ParseText(whole.substr(0, length), 1).ok()) << length;
  }
  int accepted = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string mutated = whole;
    for (unsigned k = 0; k <= random() % 6; ++k) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    const auto pieces = AsPieces(mutated);
    const auto results = ParseGetResponse(WireCursor(pieces), 1);
    if (!results.ok()) continue;
    ++accepted;
    const ReceivedResult& result = results->front();
    if (!result.found || result.value_omitted) continue;
    // What an Object will be made of.
    ASSERT_EQ(result.value.remaining(), result.description.size_bytes);
    uint64_t parts = 0;
    for (const PartSpec& part : result.description.parts) parts += part.size_bytes;
    ASSERT_EQ(parts, result.description.size_bytes);
  }
  EXPECT_GT(accepted, 100) << "mutations inside the value change nothing";
}

TEST(GetStreamResponse, TellsHeadersFromChunks) {
  v1::GetStreamResponse message;
  *message.mutable_header()->mutable_object() = Hit().object();
  message.mutable_header()->set_found(true);
  std::string text = message.SerializeAsString();
  auto pieces = AsPieces(text);
  auto received = ParseGetStreamResponse(WireCursor(pieces));
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(received->is_header);
  EXPECT_TRUE(received->header.found);
  EXPECT_EQ(received->header.description.size_bytes, 28u);

  message.set_chunk("abc");
  text = message.SerializeAsString();
  pieces = AsPieces(text);
  received = ParseGetStreamResponse(WireCursor(pieces));
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_FALSE(received->is_header);
  EXPECT_EQ(received->chunk.ToString(), "abc");
}

}  // namespace
}  // namespace infercache

#include "server/rpc/put_wire.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "common/limits.h"
#include "tests/build_kind.h"
#include "tests/rpc/put_wire_oracle.h"

namespace infercache::rpc {
namespace {

// Writes fields by hand, in orders and shapes that no serializer produces.
class MessageMaker {
 public:
  explicit MessageMaker(uint32_t seed) : random_(seed) {}

  size_t Below(size_t bound) { return random_() % bound; }

  std::string Bytes(size_t max) { return Exactly(Below(max + 1)); }

  std::string Exactly(size_t size) {
    std::string bytes;
    while (bytes.size() < size) {
      const uint64_t word = random_();
      bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
    bytes.resize(size);
    return bytes;
  }

  static std::string Varint(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
    return out;
  }

  static std::string Field(int number, const std::string& contents) {
    return Varint(number << 3 | 2) + Varint(contents.size()) + contents;
  }

  // A field nobody knows, of any wire type; groups nest.
  std::string Unknown(int depth = 0) {
    const int number = 100 + static_cast<int>(Below(1000));
    switch (Below(depth < 3 ? 5 : 4)) {
      case 0:
        return Varint(number << 3 | 0) + Varint(uint64_t{1} << Below(64));
      case 1:
        return Varint(number << 3 | 1) + std::string(8, 'x');
      case 2:
        return Field(number, Bytes(20));
      case 3:
        return Varint(number << 3 | 5) + std::string(4, 'y');
      default: {
        std::string inner;
        for (size_t i = Below(3); i > 0; --i) inner += Unknown(depth + 1);
        return Varint(number << 3 | 3) + inner + Varint(number << 3 | 4);
      }
    }
  }

  std::string Shuffled(std::vector<std::string> fields) {
    std::shuffle(fields.begin(), fields.end(), random_);
    std::string out;
    for (const std::string& field : fields) out += field;
    return out;
  }

  std::string Info() {
    v1::ObjectInfo info;
    if (Below(2)) info.set_kind(static_cast<v1::ObjectKind>(Below(6)));
    if (Below(2)) info.set_compute_cost_ms(static_cast<float>(Below(1000)) / 7);
    if (Below(2)) info.set_ttl_ms(Below(1u << 31));
    if (Below(2)) info.set_parent_key(Bytes(40));
    return info.SerializeAsString();
  }

  std::string Part() {
    v1::PartSpec part;
    part.set_dtype(static_cast<v1::DataType>(Below(19)));
    for (size_t i = Below(4); i > 0; --i) part.add_shape(Below(5000));
    part.set_size_bytes(Below(1u << 31));
    return part.SerializeAsString();
  }

  std::string Item() {
    std::vector<std::string> fields;
    // 0, 1 or 2 of each: the last scalar wins, sub-messages merge, parts add up.
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(1, Bytes(100)));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(2, Info()));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(3, Part()));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Varint(4 << 3) + Varint(Below(3)));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(5, Bytes(3000)));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Unknown());
    // A known number with another wire type is an unknown field.
    if (Below(4) == 0) fields.push_back(Varint(5 << 3) + Varint(7));
    return Shuffled(std::move(fields));
  }

  std::string Scope() {
    v1::Scope scope;
    if (Below(2)) scope.set_namespace_("ns" + std::to_string(Below(10)));
    for (size_t i = Below(3); i > 0; --i) {
      auto& entry = *scope.add_fingerprint();
      entry.set_key("model");
      entry.set_value(std::to_string(Below(100)));
    }
    return scope.SerializeAsString();
  }

  std::string PutRequest() {
    std::vector<std::string> fields;
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(1, Scope()));
    for (size_t i = Below(5); i > 0; --i) fields.push_back(Field(2, Item()));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Unknown());
    return Shuffled(std::move(fields));
  }

  std::string PutStreamRequest() {
    v1::PutStreamHeader header;
    header.set_key(Bytes(50));
    header.set_size_bytes(Below(1000));
    std::vector<std::string> fields;
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(1, header.SerializeAsString()));
    for (size_t i = Below(3); i > 0; --i) fields.push_back(Field(2, Bytes(2000)));
    for (size_t i = Below(2); i > 0; --i) fields.push_back(Unknown());
    return Shuffled(std::move(fields));
  }

  std::vector<size_t> CutSizes() {
    std::vector<size_t> sizes;
    for (size_t i = Below(4); i > 0; --i) sizes.push_back(Below(700));
    return sizes;
  }

 private:
  std::mt19937_64 random_;
};

TEST(PutWire, MeansWhatProtobufMeansForRandomRequests) {
  MessageMaker make(1);
  for (int i = 0; i < Scaled(5'000); ++i) {
    const std::string put = make.PutRequest();
    ASSERT_EQ(ComparePut(put, make.CutSizes()), "") << "request " << i;
    ASSERT_TRUE(ParsePutRequest(Cut(put, make.CutSizes())).ok()) << "request " << i;
    const std::string chunk = make.PutStreamRequest();
    ASSERT_EQ(ComparePutStream(chunk, make.CutSizes()), "") << "stream request " << i;
  }
}

TEST(PutWire, AgreesWithProtobufOnEveryTruncation) {
  MessageMaker make(2);
  for (int i = 0; i < Scaled(20); ++i) {
    const std::string put = make.PutRequest();
    for (size_t size = 0; size < put.size(); ++size) {
      ASSERT_EQ(ComparePut(std::string_view(put).substr(0, size), {7, 0, 64}), "")
          << "request " << i << " cut after " << size;
    }
    const std::string chunk = make.PutStreamRequest();
    for (size_t size = 0; size < chunk.size(); ++size) {
      ASSERT_EQ(ComparePutStream(std::string_view(chunk).substr(0, size), {3}), "")
          << "stream request " << i << " cut after " << size;
    }
  }
}

TEST(PutWire, AgreesWithProtobufOnDamagedBytes) {
  const google::protobuf::LogSilencer quiet;  // it logs every name that is no UTF-8
  MessageMaker make(3);
  for (int i = 0; i < Scaled(20'000); ++i) {
    std::string put = make.PutRequest();
    if (put.empty()) continue;
    for (size_t flips = 1 + make.Below(3); flips > 0; --flips) {
      put[make.Below(std::min<size_t>(put.size(), 80))] = static_cast<char>(make.Below(256));
    }
    ASSERT_EQ(ComparePut(put, make.CutSizes()), "") << "request " << i;
  }
}

TEST(PutWire, FollowsProtobufsDepthLimit) {
  const auto nested = [](int depth) {
    std::string out;
    for (int i = 0; i < depth; ++i) out += MessageMaker::Varint(100 << 3 | 3);
    for (int i = 0; i < depth; ++i) out += MessageMaker::Varint(100 << 3 | 4);
    return out;
  };
  for (int depth = 97; depth <= 103; ++depth) {
    EXPECT_EQ(ComparePut(nested(depth), {1}), "") << depth;
    EXPECT_EQ(ComparePut(MessageMaker::Field(2, nested(depth)), {1}), "") << depth << " in an item";
  }
}

TEST(PutWire, KeepsNoMorePartsThanItTakesToRefuseThem) {
  v1::PutRequest request;
  auto& item = *request.add_items();
  for (size_t i = 0; i < 10 * kMaxParts; ++i) item.add_parts();
  const std::string bytes = request.SerializeAsString();
  const auto view = ParsePutRequest(Cut(bytes, {1000}));
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(static_cast<size_t>(view->items[0].item.parts_size()), kMaxParts + 1);
}

// Each item kept to its limit, and all of them together made gigabytes of one message.
TEST(PutWire, CountsThePartsOfAllItemsTogether) {
  v1::PutItem item;
  for (size_t i = 0; i < kMaxParts; ++i) item.add_parts();
  std::string bytes;
  for (size_t i = 0; i < kMaxPartsPerCall / kMaxParts; ++i) {
    bytes += MessageMaker::Field(2, item.SerializeAsString());
  }
  EXPECT_TRUE(ParsePutRequest(Cut(bytes, {1000})).ok());
  item.Clear();
  item.add_parts();
  bytes += MessageMaker::Field(2, item.SerializeAsString());
  EXPECT_THAT(std::string(ParsePutRequest(Cut(bytes, {1000})).status().message()),
              ::testing::HasSubstr("parts: more than 262144"));
}

// Long runs are copied in another way than short ones.
TEST(CopyRun, CopiesTheSameBytesAtEverySizeAlignmentAndCut) {
  constexpr size_t kLonger = 64 << 10;
  constexpr char kUntouched = '#';
  const std::string message = MessageMaker(7).Exactly(kLonger + 300);
  for (const size_t size : {size_t{0}, size_t{100}, kLonger - 1, kLonger, kLonger + 200}) {
    for (const size_t cut :
         {size_t{1}, size_t{63}, size_t{64}, size_t{16384 - 9}, message.size()}) {
      const std::vector<std::string_view> pieces = Cut(message, {cut, 0});
      for (const size_t shift : {0, 1, 15, 16, 63}) {
        std::string to(shift + size + 1, kUntouched);
        CopyRun(pieces, {.piece = 0, .offset = 0, .size = size},
                std::as_writable_bytes(std::span(to)).subspan(shift, size));
        EXPECT_EQ(to, std::string(shift, kUntouched) + message.substr(0, size) + kUntouched);
      }
    }
  }
}

TEST(PutWire, ValueStaysWhereItIs) {
  v1::PutRequest request;
  auto& item = *request.add_items();
  item.set_key("k");
  item.set_value(std::string(1000, 'v'));
  const std::string bytes = request.SerializeAsString();
  const std::vector<std::string_view> pieces = {bytes};
  const auto view = ParsePutRequest(pieces);
  ASSERT_TRUE(view.ok());
  const ByteRun& value = view->items[0].value;
  EXPECT_EQ(value.size, 1000u);
  EXPECT_EQ(bytes.substr(value.offset, value.size), item.value());
  EXPECT_TRUE(view->items[0].item.value().empty());
}

}  // namespace
}  // namespace infercache::rpc

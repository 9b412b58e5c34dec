#include "client/src/wire_cursor.h"

#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <random>

#include "infercache/v1/cache.pb.h"
#include "tests/client/client_testing.h"

namespace infercache {
namespace {

using Piece = WireCursor::Piece;

// The text cut into pieces of `length` bytes, with empty ones between.
std::vector<Piece> Cut(const std::string& text, size_t length) {
  std::vector<Piece> pieces = {Piece()};
  for (size_t at = 0; at < text.size(); at += length) {
    pieces.push_back(Bytes(text).subspan(at, std::min(length, text.size() - at)));
    pieces.push_back(Piece());
  }
  return pieces;
}

// Walks a message and everything in it that might be one. Returns how many fields it saw, or the
// error.
absl::StatusOr<int> WalkAll(WireCursor cursor) {
  int fields = 0;
  while (true) {
    absl::StatusOr<std::optional<WireField>> field = cursor.Next();
    if (!field.ok()) return field.status();
    if (!field->has_value()) return fields;
    ++fields;
    if ((*field)->type == WireField::Type::kBytes) {
      EXPECT_EQ((*field)->bytes.ToString().size(), (*field)->bytes.remaining());
      (void)WalkAll((*field)->bytes);
    }
  }
}

absl::StatusOr<int> WalkText(const std::string& text, size_t piece_length) {
  const std::vector<Piece> pieces = Cut(text, piece_length);
  return WalkAll(WireCursor(pieces));
}

TEST(WireCursor, AnEmptyMessageHasNoFields) {
  EXPECT_EQ(*WalkAll(WireCursor()), 0);
  EXPECT_EQ(*WalkText("", 1), 0);
}

TEST(WireCursor, ReadsEveryWireTypeAcrossPieces) {
  const std::string message(
      "\x08\xac\x02"                          // 1: varint 300
      "\x11\x01\x02\x03\x04\x05\x06\x07\x08"  // 2: fixed64
      "\x1a\x03xyz"                           // 3: bytes
      "\x25\x01\x00\x00\x80",                 // 4: fixed32
      22);
  for (size_t length = 1; length <= message.size(); ++length) {
    const std::vector<Piece> pieces = Cut(message, length);
    WireCursor cursor{pieces};
    EXPECT_EQ((*cursor.Next())->value, 300u);
    EXPECT_EQ((*cursor.Next())->value, 0x0807060504030201u);
    const WireField bytes = **cursor.Next();
    EXPECT_EQ(bytes.number, 3u);
    EXPECT_EQ(bytes.bytes.ToString(), "xyz");
    EXPECT_EQ((*cursor.Next())->value, 0x80000001u);
    EXPECT_FALSE((*cursor.Next()).has_value());
  }
}

TEST(WireCursor, ReadsTheLargestVarint) {
  const std::string largest = "\x08" + std::string(9, '\xff') + "\x01";
  const std::vector<Piece> pieces = {Bytes(largest)};
  EXPECT_EQ((*WireCursor(pieces).Next())->value, ~uint64_t{0});
}

TEST(WireCursor, RefusesWhatIsNoMessage) {
  EXPECT_FALSE(WalkText("\x08" + std::string(9, '\xff') + "\x02", 3).ok()) << "65 bits";
  EXPECT_FALSE(WalkText(std::string(11, '\xff'), 4).ok()) << "a varint without end";
  EXPECT_FALSE(WalkText(std::string("\x00\x01", 2), 1).ok()) << "field number 0";
  EXPECT_FALSE(WalkText("\x0b\x0c", 1).ok()) << "a group";
  EXPECT_FALSE(WalkText("\x0e\x01", 1).ok()) << "wire type 6";
  EXPECT_FALSE(WalkText("\x0a\x04xyz", 2).ok()) << "longer than the message";
  EXPECT_FALSE(WalkText("\x0a" + std::string(9, '\xff') + "\x01x", 2).ok()) << "2^64-1 bytes";
  EXPECT_FALSE(WalkText("\x88\x80\x80\x80\x80\x01\x01", 2).ok()) << "field number 2^32";
}

TEST(WireCursor, AnInnerMessageCannotReadBeyondItself) {
  const std::string message = "\x0a\x02\x0a\x05helloworld";  // the inner field claims 5 bytes of 0
  const std::vector<Piece> pieces = {Bytes(message)};
  WireCursor cursor{pieces};
  WireCursor inner = (*cursor.Next())->bytes;
  EXPECT_FALSE(inner.Next().ok());
}

TEST(WireCursor, EveryTruncationEndsWell) {
  v1::GetResponse response;
  for (int i = 0; i < 3; ++i) {
    v1::GetResult& result = *response.add_results();
    result.set_found(true);
    result.mutable_object()->set_size_bytes(300);
    result.set_value(std::string(300, 'v'));
  }
  const std::string whole = response.SerializeAsString();
  int complete = 0;
  for (size_t length = 0; length <= whole.size(); ++length) {
    for (const size_t piece : {1, 7, 4096}) {
      const absl::StatusOr<int> fields = WalkText(whole.substr(0, length), piece);
      complete += fields.ok();
    }
  }
  EXPECT_EQ(complete, 3 * 4) << "only at the ends of the outer fields";
}

// What the cursor calls a message, Protobuf calls one, with the same fields in it.
TEST(WireCursor, AgreesWithProtobufOnMutations) {
  std::minstd_rand random(7);
  google::protobuf::UnknownFieldSet whole;
  whole.AddVarint(1, 300);
  whole.AddLengthDelimited(2, "0123456789");
  whole.AddFixed64(3, 77);
  whole.AddFixed32(4, 88);
  std::string serialized;
  ASSERT_TRUE(whole.SerializeToString(&serialized));
  int taken = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string mutated = serialized;
    for (unsigned k = 0; k <= random() % 4; ++k) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    const absl::StatusOr<int> fields = WalkText(mutated, 1 + random() % 8);
    if (!fields.ok()) continue;
    ++taken;
    google::protobuf::UnknownFieldSet parsed;
    ASSERT_TRUE(parsed.ParseFromString(mutated)) << testing::PrintToString(mutated);
    ASSERT_EQ(parsed.field_count(), *fields) << testing::PrintToString(mutated);
  }
  EXPECT_GT(taken, 1000);
  EXPECT_LT(taken, 99'000);
}

}  // namespace
}  // namespace infercache

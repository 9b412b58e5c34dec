// One message of 64 MiB became gigabytes of objects before anybody knew who had sent it: what is
// nested, packed or unknown was not counted.

#include "server/rpc/field_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/match.h"
#include "common/limits.h"
#include "infercache/v1/admin.pb.h"
#include "infercache/v1/cache.pb.h"
#include "tests/rpc/put_wire_oracle.h"

namespace infercache::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

std::string Field(int number, const std::string& contents) {
  return Varint(number << 3 | 2) + Varint(contents.size()) + contents;
}

std::string Times(size_t count, const std::string& bytes) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += bytes;
  return out;
}

// What is said of `bytes`; empty = nothing.
template <typename Message>
std::string Check(const std::string& bytes) {
  const absl::Status status = CheckCounts(Cut(bytes, {1000}), *Message::descriptor());
  return std::string(status.message());
}

// `count` of `element` in field `number` of a message that lies in field `outer` of the request.
template <typename Message>
std::string Nested(int outer, const std::string& element, size_t count) {
  return Check<Message>(Field(outer, Times(count, element)));
}

TEST(FieldCounter, TakesAsMuchAsTheLimitAndNoMore) {
  EXPECT_EQ(Check<v1::GetRequest>(Times(kMaxKeysPerCall, Field(2, "k"))), "");
  EXPECT_EQ(Check<v1::GetRequest>(Times(kMaxKeysPerCall + 1, Field(2, "k"))),
            "keys: more than 65536 of them, which is the limit");
  const std::string entry = Field(2, "");
  EXPECT_EQ(Nested<v1::GetRequest>(1, entry, kMaxFingerprintEntries), "");
  EXPECT_THAT(Nested<v1::GetRequest>(1, entry, kMaxFingerprintEntries + 1),
              StartsWith("fingerprint: more than 64"));
  // Messages that come twice are merged.
  EXPECT_THAT(Check<v1::GetRequest>(Times(2, Field(1, Times(kMaxFingerprintEntries, entry)))),
              StartsWith("fingerprint: more than 64"));
}

TEST(FieldCounter, LooksIntoWhatIsNested) {
  constexpr size_t kMillions = 4'000'000;
  EXPECT_THAT(Nested<v1::FlightRequest>(2, Field(2, ""), kMillions), StartsWith("keys:"));
  EXPECT_THAT(Check<v1::FlightRequest>(Field(1, Field(1, Times(kMillions, Field(2, ""))))),
              StartsWith("fingerprint:"));
  EXPECT_THAT(Nested<v1::PutStreamRequest>(1, Field(4, ""), kMillions), StartsWith("parts:"));
  EXPECT_THAT(Check<v1::CreateNamespaceRequest>(Field(1, Times(kMillions, Field(5, "")))),
              StartsWith("required_fingerprint:"));
}

TEST(FieldCounter, CountsNumbersPackedOrNot) {
  const std::string packed = Field(1, std::string(kMaxClaimsPerParty, '\x01'));
  EXPECT_EQ(Check<v1::FlightRequest>(Field(3, packed)), "");
  EXPECT_THAT(Check<v1::FlightRequest>(Field(3, packed + std::string("\x08\x01"))),
              StartsWith("claims: more than 16384"));
  EXPECT_THAT(Check<v1::FlightRequest>(Field(3, Field(1, std::string(4'000'000, '\x01')))),
              StartsWith("claims:"));
}

// Protobuf keeps all of them, each as an object.
TEST(FieldCounter, CountsWhatItDoesNotKnow) {
  const std::string group = Varint(100 << 3 | 3) + Field(1, "") + Varint(100 << 3 | 4);
  for (const std::string& unknown :
       {Field(100, ""), Varint(100 << 3) + "x", Varint(1 << 3) + "x", group}) {
    const size_t in_each = unknown == group ? 2 : 1;
    const size_t most = kMaxOtherFields / in_each;
    EXPECT_EQ(Check<v1::ListRequest>(Times(most, unknown)), "");
    EXPECT_THAT(Check<v1::ListRequest>(Times(most + 1, unknown)), StartsWith("other fields:"));
    EXPECT_THAT(Nested<v1::ListRequest>(1, unknown, most + 1), StartsWith("other fields:"));
  }
}

TEST(FieldCounter, RefusesWhatIsMalformed) {
  for (const std::string& bytes :
       {std::string("\x0a\xff\xff"), Varint(100 << 3 | 3), Varint(100 << 3 | 4),
        Field(1, std::string("\x12\x05")), Times(200, Varint(100 << 3 | 3))}) {
    EXPECT_THAT(Check<v1::GetRequest>(bytes), HasSubstr("no valid GetRequest"));
  }
}

// So has a field that is added to a request.
void ExpectLimits(const Descriptor& message, std::set<const Descriptor*>* seen) {
  if (!seen->insert(&message).second) return;
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (field.message_type() != nullptr) ExpectLimits(*field.message_type(), seen);
    if (!field.is_repeated()) continue;
    EXPECT_TRUE(!field.is_packable() || field.type() == FieldDescriptor::TYPE_UINT64 ||
                field.type() == FieldDescriptor::TYPE_UINT32)
        << field.full_name() << ": AddPacked does not know how to count it";
    const std::string element =
        field.is_packable() ? Varint(field.number() << 3) + "x" : Field(field.number(), "");
    const std::string bytes = Times(kMaxPartsPerCall * kMaxRank + 1, element);
    const absl::Status status = CheckCounts(Cut(bytes, {1 << 20}), message);
    EXPECT_TRUE(absl::StartsWith(status.message(), field.name() + ": more than") ||
                absl::StartsWith(status.message(), "other fields: more than"))
        << field.full_name() << ": " << status;
  }
}

TEST(FieldCounter, EveryRepeatedFieldOfARequestHasALimit) {
  std::set<const Descriptor*> seen;
  for (const auto* file :
       {v1::GetRequest::descriptor()->file(), v1::CreateNamespaceRequest::descriptor()->file()}) {
    for (int service = 0; service < file->service_count(); ++service) {
      for (int i = 0; i < file->service(service)->method_count(); ++i) {
        ExpectLimits(*file->service(service)->method(i)->input_type(), &seen);
      }
    }
  }
  EXPECT_GT(seen.size(), 20u);
}

}  // namespace
}  // namespace infercache::rpc

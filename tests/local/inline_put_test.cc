#include "server/local/inline_put.h"

#include <gtest/gtest.h>

#include "common/limits.h"
#include "infercache/v1/local.pb.h"

namespace infercache::local {
namespace {

v1::LocalRequest TwoPuts() {
  v1::LocalRequest request;
  request.set_id(300);
  for (const char* value : {"first", "second"}) {
    v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
    item.mutable_object()->set_key("key");
    item.set_value(value);
  }
  return request;
}

TEST(FindInlinePuts, FindsTheValuesInTheFrame) {
  const std::string frame = TwoPuts().SerializeAsString();
  InlinePutsView views;
  ASSERT_TRUE(FindInlinePuts(frame, &views));
  EXPECT_EQ(views.id, 300u);
  ASSERT_EQ(views.items.size(), 2u);
  EXPECT_EQ(views.items[1].value, "second");
  EXPECT_GE(views.items[1].value.data(), frame.data());
  EXPECT_LE(views.items[1].value.data() + 6, frame.data() + frame.size());
  v1::ReserveItem object;
  ASSERT_TRUE(object.ParseFromArray(views.items[0].object.data(),
                                    static_cast<int>(views.items[0].object.size())));
  EXPECT_EQ(object.key(), "key");
}

TEST(FindInlinePuts, LeavesOtherRequestsToProtobuf) {
  v1::LocalRequest request;
  InlinePutsView views;
  EXPECT_FALSE(FindInlinePuts("", &views));
  request.mutable_ping();
  EXPECT_FALSE(FindInlinePuts(request.SerializeAsString(), &views));
  request.mutable_commit()->add_reservations(1);
  EXPECT_FALSE(FindInlinePuts(request.SerializeAsString(), &views));
}

// Fields in another order or twice mean what Protobuf says they mean.
TEST(FindInlinePuts, LeavesUnusualEncodingsToProtobuf) {
  const std::string frame = TwoPuts().SerializeAsString();
  InlinePutsView views;
  EXPECT_FALSE(FindInlinePuts(frame + frame, &views));
  v1::LocalRequest id;
  id.set_id(7);
  EXPECT_FALSE(FindInlinePuts(frame + id.SerializeAsString(), &views));
  v1::PutInlineItem item;
  item.set_value("without an object");
  v1::LocalRequest request;
  *request.mutable_put_inline()->add_items() = item;
  EXPECT_FALSE(FindInlinePuts(request.SerializeAsString(), &views));
}

TEST(FindInlinePuts, NeverReadsBeyondTheFrame) {
  const std::string frame = TwoPuts().SerializeAsString();
  InlinePutsView views;
  for (size_t size = 0; size < frame.size(); ++size) {
    // A copy of its own, so that AddressSanitizer sees a step too far.
    const std::vector<char> part(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(FindInlinePuts({part.data(), part.size()}, &views)) << size;
  }
  std::string claims_more = frame;
  for (char& byte : claims_more) {
    const char was = byte;
    byte = '\xff';
    FindInlinePuts(claims_more, &views);
    byte = was;
  }
}

TEST(FindInlinePuts, KeepsNoMoreThanTheLimitAndOne) {
  v1::LocalRequest request;
  for (size_t i = 0; i < kMaxItemsPerFrame + 100; ++i) {
    request.mutable_put_inline()->add_items()->mutable_object()->set_key("k");
  }
  InlinePutsView views;
  ASSERT_TRUE(FindInlinePuts(request.SerializeAsString(), &views));
  EXPECT_EQ(views.items.size(), kMaxItemsPerFrame + 1);
}

}  // namespace
}  // namespace infercache::local

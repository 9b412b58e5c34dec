// Puts in two steps: room, and its commit.

#include <algorithm>

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

template <typename Transport>
class Reservations : public Conformance<Transport> {
 protected:
  auto Reserve(const ReserveItem& item) {
    return std::move(this->client_->Reserve(std::span(&item, 1)).front());
  }
  template <typename Reservation>
  PutResult Commit(Reservation& reservation) {
    return this->client_->Commit(std::span(&reservation, 1)).front();
  }
  template <typename Reservation>
  static void Fill(Reservation& reservation, char byte) {
    const std::span<std::byte> bytes = reservation.bytes();
    std::fill(bytes.begin(), bytes.end(), std::byte(byte));
  }
};
TYPED_TEST_SUITE(Reservations, AllTransports, TransportName);
template <typename Transport>
using ClientReservations = Reservations<Transport>;
TYPED_TEST_SUITE(ClientReservations, Transports, TransportName);

TYPED_TEST(Reservations, BecomeObjectsByCommit) {
  ReserveItem item = {.key = "k", .size_bytes = 12};
  item.parts = {{.dtype = DataType::kFloat32, .shape = {3}, .size_bytes = 12}};
  item.info.kind = ObjectKind::kKv;
  auto reserved = this->Reserve(item);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  ASSERT_EQ(reserved.reservation->bytes().size(), 12u);
  this->Fill(*reserved.reservation, 'x');
  EXPECT_EQ(this->Get("k"), "(miss)");
  EXPECT_EQ(this->Commit(*reserved.reservation).outcome, PutOutcome::kStored);
  EXPECT_FALSE(*reserved.reservation);
  const auto got = this->client_->Get("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Text(got.object->bytes()), std::string(12, 'x'));
  EXPECT_EQ(got.object->parts(), item.parts);
  EXPECT_EQ(got.object->info().kind, ObjectKind::kKv);
}

TYPED_TEST(Reservations, OfOneKeyTheFirstCommitWins) {
  const ReserveItem item = {.key = "k", .size_bytes = 3};
  auto first = this->Reserve(item);
  auto second = this->Reserve(item);
  ASSERT_TRUE(first.reservation && second.reservation);
  this->Fill(*first.reservation, '1');
  this->Fill(*second.reservation, '2');
  EXPECT_EQ(this->Commit(*second.reservation).outcome, PutOutcome::kStored);
  EXPECT_EQ(this->Commit(*first.reservation).outcome, PutOutcome::kExists);
  EXPECT_EQ(this->Get("k"), "222");
  EXPECT_EQ(this->Commit(*second.reservation).outcome, PutOutcome::kRefused) << "it is empty now";
}

TYPED_TEST(Reservations, DroppedOnesLeaveNothing) {
  {
    const auto reserved = this->Reserve({.key = "k", .size_bytes = 1 << 20});
    ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  }
  EXPECT_TRUE(this->client_->Ping().ok()) << "and by now the daemon has heard of it";
  EXPECT_EQ(this->daemon().Stats().reservations, 0u);
  EXPECT_EQ(this->Get("k"), "(miss)");
}

TYPED_TEST(ClientReservations, ComeAndGoInBatches) {
  std::vector<std::string> keys;
  std::vector<ReserveItem> items;
  for (int i = 0; i < 100; ++i) keys.push_back("k" + std::to_string(i));
  for (const std::string& key : keys) items.push_back({.key = key, .size_bytes = 10});
  std::vector<ReserveResult> reserved = this->client_->Reserve(items);
  std::vector<Reservation> reservations;
  for (ReserveResult& result : reserved) {
    ASSERT_TRUE(result.reservation.has_value()) << result.status;
    this->Fill(*result.reservation, 'b');
    reservations.push_back(*std::move(result.reservation));
  }
  const RequestId id = this->client_->SubmitCommit(reservations);
  std::vector<Completion> completions;
  while (completions.empty()) completions = this->client_->Drain();
  ASSERT_EQ(completions[0].id, id);
  for (const PutResult& result : completions[0].commit) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  EXPECT_EQ(this->Get("k99"), "bbbbbbbbbb");
  EXPECT_TRUE(this->client_->Reserve({}).empty());
  EXPECT_TRUE(this->client_->Commit({}).empty());
}

TYPED_TEST(Reservations, OfNothingAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(this->Reserve({.key = "k", .size_bytes = 0}).status));
}

}  // namespace
}  // namespace infercache

// Clients of a tier that lie, flood or hang: the daemon stays up, and another client of the tier
// sees no wrong byte and no stall. What hostile clients do to any session is in
// tests/chaos/hostile_test.cc; here it is done to one of a GPU's memory, whose bytes nobody but a
// driver can touch.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/device_client_fixture.h"
#include "tests/gpu/tier_traffic.h"

namespace infercache::gpu {
namespace {

using local::EndReason;
using local::Eventually;
using local::RawClient;
using ::testing::HasSubstr;

class TierHostile : public DeviceClient {
 protected:
  void SetUp() override {
    DeviceClient::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Begin();
  }
  void TearDown() override {
    if (traffic_ != nullptr) End();
    DeviceClient::TearDown();
  }
  void Begin() {
    traffic_ = std::make_unique<TierTraffic>(*device_client_, *buffer_, ++seed_);
    stop_ = false;
    thread_ = std::thread([this] {
      while (!stop_) traffic_->Round();
      traffic_->LetGoOfAll();
    });
    ASSERT_TRUE(Eventually([this] { return Tier()->Stats().evicted > 20; })) << "no pressure";
    sessions_ = server_->stats().sessions;
  }
  // What every test ends with.
  void End() {
    EXPECT_TRUE(AwaitRounds(100)) << "the other stands still";
    stop_ = true;
    thread_.join();
    EXPECT_EQ(traffic_->wrong(), 0u);
    EXPECT_GT(traffic_->hits(), traffic_->rounds() / 10) << "hardly anything was read";
    traffic_.reset();
  }
  bool AwaitRounds(uint64_t more) {
    const uint64_t until = traffic_->rounds() + more;
    return Eventually([&] { return traffic_->rounds() >= until; });
  }
  RawClient Session() {
    RawClient client = Connect();
    const absl::Status opened = client.Open(OnDevice());
    EXPECT_TRUE(opened.ok()) << opened;
    return client;
  }
  bool OthersAreGone() {
    return Eventually([this] { return server_->stats().sessions == sessions_; });
  }
  static uint32_t OutcomeCode(RawClient& client, uint64_t reservation) {
    v1::LocalRequest commit;
    commit.mutable_commit()->add_reservations(reservation);
    const auto answer = client.Ask(commit);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (!answer.ok()) return 0;
    EXPECT_EQ(answer->response.put_results().results(0).outcome(), v1::LOCAL_PUT_REFUSED);
    return answer->response.put_results().results(0).code();
  }
  static uint64_t ReserveOne(RawClient& client, const std::string& key, uint64_t bytes) {
    v1::LocalRequest request;
    *request.mutable_reserve()->add_items() = local::MakeItem(key, bytes);
    const auto answer = client.Ask(request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? answer->response.reserved().items(0).reservation() : 0;
  }

  uint64_t seed_ = 0;
  uint64_t sessions_ = 0;
  std::unique_ptr<TierTraffic> traffic_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// --- Frames ---

TEST_F(TierHostile, RandomBytesAndFramesOfNonsense) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    RawClient client = i % 2 == 0 ? Session() : Connect();
    std::string bytes(random() % 4096, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (i % 3 == 0) bytes = RawClient::EncodeFrame(bytes);
    (void)client.SendBytes(bytes);  // it may be thrown out meanwhile
  }
  EXPECT_TRUE(OthersAreGone());
}

TEST_F(TierHostile, DescriptorsAreClosedAndEndTheSession) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  RawClient client = Session();
  v1::LocalRequest ping;
  ping.set_id(1);
  ping.mutable_ping();
  (void)client.SendBytesWith(RawClient::EncodeFrame(ping.SerializeAsString(), 1), {{writer.get()}});
  EXPECT_TRUE(client.AwaitClose().ok());
  EXPECT_TRUE(Eventually([this] { return Ended(EndReason::kProtocol) == 1; }));
  writer.Reset();
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0) << "the daemon has kept one";
}

// The chunks of a tier are descriptors too, which the daemon has to hand out again and again.
TEST_F(TierHostile, AskingForTheChunksWithoutReadingThem) {
  RawClient client = Session();
  v1::LocalRequest ask;
  ask.set_id(1);
  ask.mutable_map_chunks()->set_first(0);
  const std::string frame = RawClient::EncodeFrame(ask.SerializeAsString());
  uint64_t sent = 0;
  // Until the daemon takes no more, for as long as the other does some work.
  for (uint64_t seen = traffic_->rounds(); traffic_->rounds() < seen + 50;) {
    const auto taken = client.TrySendBytes(frame);
    if (!taken.ok()) break;
    sent += *taken;
    if (*taken > 0) seen = traffic_->rounds();
    ASSERT_LT(sent, uint64_t{64} << 20) << "it is read without end";
    if (*taken % frame.size() != 0) break;  // the rest of it will not be sent
  }
  client.Close();
  EXPECT_TRUE(OthersAreGone());
}

TEST_F(TierHostile, ChunksThatAreNotThereAreRefused) {
  RawClient client = Session();
  for (const uint32_t first : {client.welcome().chunk_count(), ~uint32_t{0}}) {
    v1::LocalRequest request;
    request.mutable_map_chunks()->set_first(first);
    const auto answer = client.Ask(request);
    EXPECT_FALSE(answer.ok() && !answer->descriptors.empty()) << first;
  }
}

// --- The session page ---

TEST_F(TierHostile, GarbageInTheSessionPage) {
  RawClient client = Session();
  const std::span<std::byte> page = client.page_memory();
  std::mt19937_64 random(2);
  auto* words = reinterpret_cast<std::atomic<uint64_t>*>(page.data());
  const size_t count = page.size() / sizeof(uint64_t);
  const uint64_t rounds = traffic_->rounds();
  while (traffic_->rounds() < rounds + 200) {
    for (int i = 0; i < 2000; ++i) {
      words[random() % count].store(random() % 2 == 0 ? random() : shm::MakePin(random() % 64, 2),
                                    std::memory_order_relaxed);
    }
    client.page().lane(random() % shm::kLanes).touched.fetch_add(random() % 20'000);
  }
  client.Close();
  EXPECT_TRUE(OthersAreGone());
}

TEST_F(TierHostile, HoldingEveryPinIsRevoked) {
  RawClient client = Session();
  v1::LocalRequest grow;
  grow.mutable_grow_slots()->set_slots(kMaxPinSlots);
  ASSERT_TRUE(client.Ask(grow).ok());
  shm::SessionPage page = client.page();
  page.RaiseSlotsInUse(kMaxPinSlots);
  const uint32_t records = client.index().header().record_capacity;
  EXPECT_TRUE(Eventually([&] {
    for (uint32_t i = 0; i < kMaxPinSlots; ++i) {
      page.slot(i).store(shm::MakePin(1 + i % records, 2));
    }
    return page.revoked() || Ended(EndReason::kRevoked) > 0;
  }));
  EXPECT_TRUE(client.AwaitClose().ok());
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kRevoked) == 1; }));
  EXPECT_THAT(Log(), HasSubstr("budget"));
  EXPECT_TRUE(Eventually([this] { return Limbo() < kTierBytes / 4; })) << "its pins still count";
}

// --- Reservations ---

TEST_F(TierHostile, ReservingEverythingAndNeverCommitting) {
  RawClient client = Session();
  uint64_t reserved = 0;
  for (int i = 0; i < 400; ++i) {
    reserved += ReserveOne(client, absl::StrCat("mine:", i), 64 << 10) != 0;
  }
  EXPECT_GT(reserved, 0u);
  EXPECT_LE(reserved * (64 << 10), kTierBytes / 2) << "no room is left for others";
  const uint64_t refused = traffic_->refused();
  EXPECT_TRUE(AwaitRounds(100));
  EXPECT_EQ(traffic_->refused(), refused) << "others cannot put any more";
}

// Nothing but a driver can write to a tier, so a daemon that was sent bytes would have to lie.
TEST_F(TierHostile, SendingBytesForATierStoresNothing) {
  RawClient client = Session();
  const uint64_t reservation = ReserveOne(client, "sent", 16);
  ASSERT_NE(reservation, 0u);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{8}, ~uint64_t{0}, ~uint64_t{0} - 8}) {
    v1::LocalRequest write;
    write.mutable_write()->set_reservation(reservation);
    write.mutable_write()->set_offset(offset);
    write.mutable_write()->set_data(std::string(16, 'x'));
    ASSERT_TRUE(client.Send(write).ok());
  }
  EXPECT_EQ(OutcomeCode(client, reservation),
            static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  EXPECT_FALSE(Tier().Has("sent"));
}

TEST_F(TierHostile, ReservationsAndLeasesAreNotTheClientsToChoose) {
  RawClient client = Session(), other = Session();
  const uint64_t reservation = ReserveOne(other, "of another", 1000);
  ASSERT_NE(reservation, 0u);
  for (const uint64_t forged : {reservation, uint64_t{12345}, ~uint64_t{0}}) {
    EXPECT_NE(OutcomeCode(client, forged), 0u);
    v1::LocalRequest abort;
    abort.mutable_abort()->add_reservations(forged);
    (void)client.Ask(abort);
    v1::LocalRequest release;
    release.mutable_release()->add_leases(forged);
    (void)client.Send(release);
  }
  v1::LocalRequest commit;
  commit.mutable_commit()->add_reservations(reservation);
  const auto answer = other.Ask(commit);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->response.put_results().results(0).outcome(), v1::LOCAL_PUT_STORED);
}

// A tier's session lends nothing: see Device::Impl, which lends over the host's.
TEST_F(TierHostile, LendingOverATiersSessionIsRefused) {
  RawClient client = Session();
  v1::LocalRequest lend;
  v1::LentMemory& memory = *lend.mutable_lend()->mutable_memory();
  memory.set_kind(v1::LentMemory::KIND_LEGACY);
  memory.set_device(device_.uuid);
  memory.set_handle(std::string(64, 'h'));
  memory.set_size_bytes(1 << 20);
  v1::LendItem& item = *lend.mutable_lend()->add_items();
  item.set_key("key");
  item.mutable_object()->set_size_bytes(1000);
  const auto answer = client.Ask(lend);
  EXPECT_TRUE(!answer.ok() || answer->response.lent().items(0).code() != 0);
  EXPECT_EQ(server_->stats().lending.loans, 0u);
}

}  // namespace
}  // namespace infercache::gpu

// A client that breaks every rule: the daemon stays up, others see no wrong byte and no stall, and
// the offender is thrown out with a reason in the log.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/chaos/traffic.h"
#include "tests/local/local_fixture.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace infercache::chaos {
namespace {

using local::EndReason;
using local::Eventually;
using local::RawClient;
using ::testing::HasSubstr;

// More than anything takes on a busy machine with a sanitizer, and far less than any timeout of the
// protocol that a stall could hide behind.
constexpr std::chrono::milliseconds kNoStall{3000};

class Hostile : public local::LocalFixture {
 protected:
  void SetUp() override {
    Create("default", 8 * kMiB);
    StartServer({});
  }
  void TearDown() override {
    EndTraffic();
    LocalFixture::TearDown();
  }

  void StartServer(local::LocalOptions options) {
    traffic_.reset();
    server_.reset();
    Serve(std::move(options));
    traffic_ = std::make_unique<Traffic>(Open(), clock_, "traffic:");
    ASSERT_TRUE(traffic_->AwaitRounds(20));
  }
  // What every test ends with.
  void EndTraffic() {
    if (traffic_ == nullptr) return;
    EXPECT_TRUE(traffic_->AwaitRounds(20)) << "the others stand still";
    traffic_->Stop();
    EXPECT_EQ(traffic_->wrong(), 0u);
    EXPECT_GT(traffic_->hits(), traffic_->rounds() / 10) << "hardly anything was read";
    EXPECT_LT(traffic_->slowest(), kNoStall);
    traffic_.reset();
  }
  // The offender must be gone, and the log must say why.
  void ExpectThrownOut(RawClient& client, EndReason reason, const std::string& why) {
    EXPECT_TRUE(client.AwaitClose().ok());
    EXPECT_TRUE(Eventually([&] { return Ended(reason) >= 1; }));
    EXPECT_THAT(Log(), HasSubstr(why));
  }
  RawClient Session() {
    RawClient client = Connect();
    const absl::Status opened = client.Open();
    EXPECT_TRUE(opened.ok()) << opened;
    return client;
  }

  std::unique_ptr<Traffic> traffic_;
};

// --- Frames ---

TEST_F(Hostile, OversizedFrame) {
  RawClient client = Session();
  std::string header(kFrameHeaderBytes, '\0');
  const uint32_t size = kMaxFrameBytes + 1;
  std::memcpy(header.data(), &size, sizeof size);
  ASSERT_TRUE(client.SendBytes(header).ok());
  ExpectThrownOut(client, EndReason::kProtocol, absl::StrCat("the limit is ", kMaxFrameBytes));
}

TEST_F(Hostile, TruncatedFramesAtEachLength) {
  v1::LocalRequest request;
  request.set_id(3);
  auto& item = *request.mutable_reserve()->add_items();
  item.set_key("k");
  item.set_size_bytes(100);
  const std::string frame = RawClient::EncodeFrame(request.SerializeAsString());
  for (size_t length = 0; length < frame.size(); ++length) {
    RawClient client = Session();
    ASSERT_TRUE(client.SendBytes(std::string_view(frame).substr(0, length)).ok());
    client.Close();
  }
  EXPECT_TRUE(Eventually([this] { return server_->stats().sessions == 1; }));
  EXPECT_EQ((*store_->FindNamespace("default"))->Stats().quarantined_bytes, 0u);
}

TEST_F(Hostile, RandomBytes) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    RawClient client = i % 2 == 0 ? Session() : Connect();
    std::string bytes(random() % 4096, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (i % 3 == 0) bytes = RawClient::EncodeFrame(bytes);  // a frame of nonsense
    (void)client.SendBytes(bytes);                          // it may be thrown out meanwhile
  }
  EXPECT_TRUE(Eventually([this] { return server_->stats().sessions == 1; }));
}

TEST_F(Hostile, DescriptorsAreClosedAndEndTheSession) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  RawClient client = Session();
  v1::LocalRequest ping;
  ping.set_id(1);
  ping.mutable_ping();
  const std::vector<int> descriptors(3, writer.get());
  (void)client.SendBytesWith(RawClient::EncodeFrame(ping.SerializeAsString(), 3), descriptors);
  ExpectThrownOut(client, EndReason::kProtocol, "descriptors");
  writer.Reset();
  // If the daemon kept one, this would not be the end of the pipe.
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0);
}

TEST_F(Hostile, FloodOfRequestsWithoutReadingAnswers) {
  RawClient client = Session();
  v1::LocalRequest ask;
  ask.set_id(1);
  for (int i = 0; i < 1000; ++i) ask.mutable_lookup()->add_keys(absl::StrCat("absent", i));
  const std::string frame = RawClient::EncodeFrame(ask.SerializeAsString());
  uint64_t sent = 0;
  // Until the daemon takes no more for a while, or ends it.
  for (int idle = 0; idle < 200 && sent < (uint64_t{256} << 20);) {
    const auto taken = client.TrySendBytes(frame);
    if (!taken.ok()) break;
    sent += *taken;
    idle = *taken == 0 ? idle + 1 : 0;
    if (*taken == 0) usleep(1000);
  }
  EXPECT_LT(sent, uint64_t{64} << 20) << "it is read without end";
}

TEST_F(Hostile, FloodOfConnections) {
  std::vector<RawClient> clients;
  for (int i = 0; i < 500; ++i) clients.push_back(Connect());
  for (size_t i = 0; i < clients.size(); i += 2) {
    ASSERT_TRUE(clients[i].Send(RawClient::MakeHello({})).ok());
  }
  EXPECT_TRUE(traffic_->AwaitRounds(20));
  clients.clear();
  EXPECT_TRUE(Eventually([this] { return server_->stats().sessions == 1; }));
}

// --- The session page ---

TEST_F(Hostile, GarbageInTheSessionPage) {
  RawClient client = Session();
  const std::span<std::byte> page = client.page_memory();
  std::mt19937_64 random(2);
  auto* words = reinterpret_cast<std::atomic<uint64_t>*>(page.data());
  const size_t count = page.size() / sizeof(uint64_t);
  const uint64_t rounds = traffic_->rounds();
  // Everywhere, while others put, evict and are read; the slots get words that look like pins.
  while (traffic_->rounds() < rounds + 200) {
    for (int i = 0; i < 2000; ++i) {
      words[random() % count].store(random() % 2 == 0 ? random() : shm::MakePin(random() % 64, 2),
                                    std::memory_order_relaxed);
    }
    // A thousand touches at a time, as they are.
    shm::LaneHeader& lane = client.page().lane(random() % shm::kLanes);
    lane.touched.fetch_add(random() % 20'000);
  }
  client.Close();
  EXPECT_TRUE(Eventually([this] { return server_->stats().sessions == 1; }));
}

TEST_F(Hostile, HoldingEveryPinIsRevoked) {
  RawClient client = Session();
  v1::LocalRequest grow;
  grow.mutable_grow_slots()->set_slots(kMaxPinSlots);
  ASSERT_TRUE(client.Ask(grow).ok());
  shm::SessionPage page = client.page();
  page.RaiseSlotsInUse(kMaxPinSlots);
  // Whatever is there, and whatever may come: every record. The daemon's scans honour the record's
  // number alone, so a wrong generation must not make a pin weigh nothing.
  const uint32_t records = client.index().header().record_capacity;
  const auto pin_all = [&] {
    for (uint32_t i = 0; i < kMaxPinSlots; ++i)
      page.slot(i).store(shm::MakePin(1 + i % records, 2));
  };
  while (!page.revoked() && Ended(EndReason::kRevoked) == 0) pin_all();
  ExpectThrownOut(client, EndReason::kRevoked, "budget");
  EXPECT_TRUE(Eventually([this] {
    return (*store_->FindNamespace("default"))->Stats().limbo_bytes < 2 * kMiB;
  })) << "its pins still count";
}

// --- Reservations ---

TEST_F(Hostile, ReservingEverythingAndNeverCommitting) {
  StartServer({.reservation_timeout = absl::Milliseconds(200)});
  RawClient client = Session();
  uint64_t reserved = 0;
  for (int i = 0; i < 100; ++i) {
    v1::LocalRequest request;
    for (int k = 0; k < 64; ++k) {
      auto& item = *request.mutable_reserve()->add_items();
      item.set_key(absl::StrCat("mine:", i, ":", k));
      item.set_size_bytes(64 * 1024);
    }
    const auto answer = client.Ask(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    for (const auto& item : answer->response.reserved().items())
      reserved += item.reservation() != 0;
  }
  // One session may hold no more than half, so that there is room for others.
  EXPECT_LE(reserved * 64 * 1024, 4 * kMiB);
  EXPECT_TRUE(Eventually([this] { return server_->stats().quarantined_reservations > 0; }));
  const uint64_t refused = traffic_->refused();
  EXPECT_TRUE(traffic_->AwaitRounds(100));
  EXPECT_EQ(traffic_->refused(), refused) << "others cannot put any more";
}

TEST_F(Hostile, PlacesAreNotTheClientsToChoose) {
  RawClient client = Session();
  v1::LocalRequest request;
  request.mutable_commit()->add_reservations(12345);
  const auto answer = client.Ask(request);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->response.put_results().results(0).outcome(), v1::LOCAL_PUT_REFUSED);
  // Somebody else's lease, and one that never was.
  v1::LocalRequest release;
  release.mutable_release()->add_leases(1);
  ASSERT_TRUE(client.Send(release).ok());
  v1::LocalRequest write;
  write.mutable_write()->set_reservation(99);
  write.mutable_write()->set_offset(~uint64_t{0});
  write.mutable_write()->set_data("x");
  ASSERT_TRUE(client.Send(write).ok());
  EXPECT_TRUE(traffic_->AwaitRounds(10));
}

// --- Segments ---

// Everything that a holder of the descriptor could try, and what the kernel says to it.
void ExpectSealed(int fd, size_t bytes, bool may_be_written) {
  EXPECT_NE(ftruncate(fd, 0), 0);
  EXPECT_NE(ftruncate(fd, static_cast<off_t>(bytes) * 2), 0);
  EXPECT_NE(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
  void* writable = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_EQ(writable != MAP_FAILED, may_be_written);
  if (writable != MAP_FAILED) munmap(writable, bytes);
  if (may_be_written) return;
  EXPECT_LT(pwrite(fd, "x", 1, 0), 0);
  EXPECT_NE(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  void* readable = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(readable, MAP_FAILED);
  EXPECT_NE(mprotect(readable, bytes, PROT_READ | PROT_WRITE), 0);
  munmap(readable, bytes);
}

TEST_F(Hostile, TheIndexCannotBeWrittenByAnyMeans) {
  RawClient client = Session();
  ExpectSealed(client.index_descriptor().get(), client.welcome().index_bytes(), false);
  // Not even by one who may reopen it: the seal is the file's.
  const UniqueFd reopened(open(
      absl::StrCat("/proc/self/fd/", client.index_descriptor().get()).c_str(), O_RDWR | O_CLOEXEC));
  if (reopened.valid()) ExpectSealed(reopened.get(), client.welcome().index_bytes(), false);
  ExpectSealed(client.page_descriptor().get(), client.welcome().page_bytes(), true);
}

// A namespace's writers may do to its bytes what they like; all else is out of their reach.
TEST_F(Hostile, AWriterThatPunchesHolesSpoilsOnlyValuesOfItsNamespace) {
  Create("spoiled", 8 * kMiB);
  const std::string value(64 * 1024, 'v');
  local::Worker other = Open({.namespace_name = "spoiled"});
  other.Put("before", value);
  RawClient client = Connect();
  ASSERT_TRUE(client.Open({.namespace_name = "spoiled"}).ok());
  v1::LocalRequest request;
  request.mutable_map_chunks()->set_first(0);
  const auto answer = client.Ask(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_FALSE(answer->descriptors.empty());
  const auto chunk_bytes = static_cast<off_t>(client.welcome().chunk_bytes());
  for (int i = 0; i < 20; ++i) {
    for (const UniqueFd& chunk : answer->descriptors) {
      ASSERT_EQ(fallocate(chunk.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, chunk_bytes),
                0);
    }
    EXPECT_TRUE(traffic_->AwaitRounds(20));
  }
  // Zeros where there were bytes, in place and through the daemon; and room as before.
  EXPECT_EQ(other.Get("before", clock_.NowMs()), std::string(value.size(), '\0'));
  const auto found = other.Lookup({"before"});
  EXPECT_EQ(other.BytesOf(found[0]), std::string(value.size(), '\0'));
  other.Release({found[0].lease()});
  other.Put("after", value);
  EXPECT_EQ(other.Get("after", clock_.NowMs()), value);
}

TEST_F(Hostile, AReadersChunksCannotBeWrittenByAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  RawClient client = Connect();
  ASSERT_TRUE(client.Open({.namespace_name = "default", .read_only = true}).ok());
  v1::LocalRequest request;
  request.mutable_map_chunks()->set_first(0);
  const auto answer = client.Ask(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_FALSE(answer->descriptors.empty());
  const int chunk = answer->descriptors[0].get();
  ExpectSealed(chunk, client.welcome().chunk_bytes(), false);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string path = absl::StrCat("/proc/self/fd/", chunk);
    const bool safe = setgid(12345) == 0 && setuid(12345) == 0 && open(path.c_str(), O_RDWR) < 0 &&
                      errno == EACCES;
    _exit(safe ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "another user could reopen the chunk for writing";
}

}  // namespace
}  // namespace infercache::chaos

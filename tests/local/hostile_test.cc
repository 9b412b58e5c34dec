// Peers that break the protocol, or keep it in a way that hurts. None may hold up another.

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "absl/time/clock.h"
#include "common/closer.h"
#include "common/limits.h"
#include "tests/local/local_fixture.h"
#include "tests/stuck_descriptor.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

class LocalHostile : public LocalFixture {
 protected:
  LocalHostile() : ns_(Create("default")) {}

  // A session that sends `bytes` ends for it, and nobody else's does.
  void ExpectEndsFor(std::string_view bytes, const std::string& log) {
    server_.reset();
    Serve();  // one that has logged none in this second
    const uint64_t before = Ended(EndReason::kProtocol);
    Worker bystander = Open();
    Worker worker = Open();
    (void)worker.raw().SendBytes(bytes);
    EXPECT_TRUE(worker.raw().AwaitClose().ok()) << log;
    EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kProtocol) == before + 1; })) << log;
    EXPECT_THAT(Log(), HasSubstr(log));
    bystander.Ping();
  }

  static std::string Frame(const v1::LocalRequest& request) {
    return RawClient::EncodeFrame(request.SerializeAsString());
  }

  store::NamespaceVerbs ns_;
};

TEST_F(LocalHostile, WhatBreaksTheProtocolEndsTheSession) {
  std::string too_long = RawClient::EncodeFrame("");
  const uint32_t size = kMaxFrameBytes + 1;
  too_long.replace(0, sizeof size, reinterpret_cast<const char*>(&size), sizeof size);
  ExpectEndsFor(too_long, "the limit is 1048576");
  ExpectEndsFor(RawClient::EncodeFrame("", /*descriptors=*/1), "descriptors");
  std::string padded = RawClient::EncodeFrame("");
  padded[6] = 1;
  ExpectEndsFor(padded, "must be 0");
  ExpectEndsFor(RawClient::EncodeFrame("\xff\xff\xff"), "no request");
  ExpectEndsFor(RawClient::EncodeFrame(""), "unknown kind");
  v1::LocalRequest request;
  request.mutable_ping();
  ExpectEndsFor(Frame(request), "needs an id");
  request.mutable_put_inline()->add_items()->mutable_object();
  ExpectEndsFor(Frame(request), "needs an id");
}

TEST_F(LocalHostile, OneLineASecondTellsOfWhoBreaksTheProtocolInALoop) {
  Serve();
  for (int i = 0; i < 200; ++i) {
    Worker worker = Open();
    (void)worker.raw().SendBytes(RawClient::EncodeFrame("\xff\xff\xff"));
    ASSERT_TRUE(worker.raw().AwaitClose().ok());
  }
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kProtocol) == 200; }));
  const std::string log = Log();
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("no request", at)) != std::string::npos; ++at) ++lines;
  EXPECT_GE(lines, 1u);
  EXPECT_LE(lines, 60u) << "seconds";
}

TEST_F(LocalHostile, AFrameOfTheLargestSizeIsRead) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  request.set_id(77);
  request.mutable_remove()->add_keys("");
  const size_t around = request.ByteSizeLong() + 4;  // longer varints
  request.mutable_remove()->set_keys(0, std::string(kMaxFrameBytes - around, 'k'));
  std::string body = request.SerializeAsString();
  while (body.size() < kMaxFrameBytes) {
    request.mutable_remove()->mutable_keys(0)->push_back('k');
    body = request.SerializeAsString();
  }
  ASSERT_EQ(body.size(), kMaxFrameBytes);
  ASSERT_TRUE(worker.raw().SendFrame(body).ok());
  const auto received = worker.raw().Receive();
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(received->response.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
}

TEST_F(LocalHostile, DescriptorsEndTheSessionAndAreClosed) {
  Serve();
  Worker worker = Open();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd read_end(ends[0]);
  {
    const UniqueFd write_end(ends[1]);
    ASSERT_TRUE(worker.raw().SendBytesWith(RawClient::EncodeFrame("", 1), {{ends[1]}}).ok());
  }
  EXPECT_TRUE(worker.raw().AwaitClose().ok());
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0) << "somebody still holds the other end";
}

// One descriptor whose closing takes an hour stopped accepting, a loop, and the shutdown.
TEST_F(LocalHostile, WhatIsNotClosedForHoursHoldsUpNobody) {
  Serve({.threads = 2});
  std::vector<std::unique_ptr<StuckDescriptor>> stuck;
  Closer closer;
  const auto send = [&](RawClient& client, const v1::LocalRequest& request) {
    StuckDescriptor& sent = *stuck.emplace_back(std::make_unique<StuckDescriptor>());
    const std::string frame = RawClient::EncodeFrame(request.SerializeAsString(), 1);
    // A new kernel lets only a session send it.
    if (!client.SendBytesWith(frame.substr(0, 1), {{sent.get()}}).ok()) return false;
    // The daemon has the last one, while it waits for the rest of the frame.
    closer.Close(sent.Take().Release());
    (void)client.SendBytes(frame.substr(1));
    return true;
  };
  v1::LocalRequest ping;
  ping.set_id(9);
  ping.mutable_ping();
  for (int loop = 0; loop < 2; ++loop) {
    Worker worker = Open();
    EXPECT_TRUE(send(worker.raw(), ping));
    EXPECT_TRUE(worker.raw().AwaitClose().ok());
    RawClient stranger = Connect();
    send(stranger, RawClient::MakeHello({}));
    RawClient leaves = Connect();
    send(leaves, RawClient::MakeHello({}));
  }
  for (int loop = 0; loop < 2; ++loop) {
    Worker worker = Open();
    worker.Ping();
  }
  server_->Shutdown(absl::Now());
}

// Which a new kernel does not even let it send.
TEST_F(LocalHostile, DescriptorsWithoutASessionEndTheConnection) {
  Serve();
  RawClient stranger = Connect();
  const UniqueFd sent(memfd_create("sent", MFD_CLOEXEC));
  const std::string hello = RawClient::EncodeFrame(RawClient::MakeHello({}).SerializeAsString());
  const absl::Status status = stranger.SendBytesWith(hello, {{sent.get()}});
  if (status.ok()) {
    EXPECT_TRUE(stranger.AwaitClose().ok());
  } else {
    EXPECT_TRUE(stranger.Open().ok()) << "after one that was not sent";
  }
}

TEST_F(LocalHostile, AClientThatReadsNothingIsNotReadFrom) {
  for (int i = 0; i < 500; ++i) ns_.MustPut(std::to_string(i) + std::string(900, 'k'), "v");
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  request.set_id(1);
  request.mutable_list_keys();  // half a megabyte of answer to a few bytes of question
  const std::string frame = Frame(request);
  size_t sent = 0;
  // Until the daemon has stopped reading: no room for a whole second of looking.
  while (Eventually(
      [&] {
        const auto n = worker.raw().TrySendBytes(frame);
        if (n.ok() && *n == frame.size()) {
          ++sent;
          return true;
        }
        // The rest of a frame that was sent in part.
        EXPECT_TRUE(n.ok()) << n.status();
        return n.ok() && *n > 0 && worker.raw().SendBytes(frame.substr(*n)).ok() && ++sent > 0;
      },
      absl::Seconds(1))) {
    ASSERT_LT(sent, 1'000'000u);
  }
  const LocalStats stats = server_->stats();
  EXPECT_EQ(stats.sessions, 1u);
  EXPECT_LE(stats.round_trips, 20u) << "answers are piling up";

  // Another one is served meanwhile, and the silent one once it reads.
  Open().Ping();
  size_t answers = 0;
  for (; answers < 100; ++answers) {
    const auto received = worker.raw().Receive();
    ASSERT_TRUE(received.ok()) << received.status();
    ASSERT_EQ(received->response.key_page().objects_size(), 500);
  }
}

// One loop thread was held until all requests that had been read were done.
TEST_F(LocalHostile, AFloodOfSlowRequestsHoldsUpNeitherOthersNorAShutdown) {
  constexpr int kObjects = 20'000;
  constexpr uint64_t kRequests = 4'000;
  const auto big = Create("big", 16 * kMiB, 2 * kObjects);
  for (int i = 0; i < kObjects; ++i) big.MustPut("key" + std::to_string(i), "v");
  Serve({.threads = 1});
  Worker flooder = Open({.namespace_name = "big"}), bystander = Open();
  v1::LocalRequest request;
  request.set_id(1);
  request.mutable_list_keys()->set_key_prefix("none");  // looks at all objects, answers with none
  std::string frames;
  for (uint64_t i = 0; i < kRequests; ++i) frames += Frame(request);
  const uint64_t before = server_->stats().requests;
  std::thread flood([&] {
    (void)flooder.raw().SendBytes(frames);
    while (flooder.raw().Receive().ok()) {
    }
  });
  EXPECT_TRUE(Eventually([&] { return server_->stats().requests > before + 10; }));
  for (int i = 0; i < 20; ++i) bystander.Ping();
  EXPECT_LT(server_->stats().round_trips, kRequests) << "the flood went first";
  server_->Shutdown(absl::InfinitePast());
  EXPECT_LT(server_->stats().round_trips, kRequests) << "the shutdown waited for the flood";
  flood.join();
}

TEST_F(LocalHostile, RequestsOfSeveralTurnsAreAllAnsweredInOrder) {
  constexpr uint64_t kRequests = 300;
  const auto big = Create("big", 16 * kMiB, 10'000);
  for (int i = 0; i < 5'000; ++i) big.MustPut("key" + std::to_string(i), "v");
  Serve({.threads = 1});
  Worker worker = Open({.namespace_name = "big"});
  std::string frames;
  for (uint64_t i = 1; i <= kRequests; ++i) {
    v1::LocalRequest request;
    request.set_id(i);
    request.mutable_list_keys()->set_key_prefix("none");
    frames += Frame(request);
  }
  for (const uint64_t base : {0, 1}) {  // it is read from again once all is done
    ASSERT_TRUE(worker.raw().SendBytes(frames).ok());
    for (uint64_t i = 1; i <= kRequests; ++i) {
      const auto received = worker.raw().Receive();
      ASSERT_TRUE(received.ok()) << received.status() << " in round " << base;
      ASSERT_EQ(received->response.id(), i);
    }
  }
}

TEST_F(LocalHostile, ADeadClientIsNoticedEvenIfItsAnswersAreStuck) {
  for (int i = 0; i < 500; ++i) ns_.MustPut(std::to_string(i) + std::string(900, 'k'), "v");
  Serve();
  {
    Worker worker = Open();
    v1::LocalRequest request;
    request.set_id(1);
    request.mutable_list_keys();
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(worker.raw().SendBytes(Frame(request)).ok());
    EXPECT_TRUE(Eventually([&] { return server_->stats().requests > 1; }));
  }
  ExpectEnds(EndReason::kClosed);
}

TEST_F(LocalHostile, RequestsInOneWriteAreAnsweredInOrder) {
  Serve();
  Worker worker = Open();
  std::string frames;
  for (int i = 1; i <= 1'000; ++i) {
    v1::LocalRequest request;
    request.set_id(i);
    if (i % 2 == 0) {
      request.mutable_ping();
    } else {
      v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
      *item.mutable_object() = MakeItem("key" + std::to_string(i), 5);
      item.set_value("value");
    }
    frames += Frame(request);
  }
  std::thread sender([&] { ASSERT_TRUE(worker.raw().SendBytes(frames).ok()); });
  sender.join();
  for (uint64_t i = 1; i <= 1'000; ++i) {
    const auto received = worker.raw().Receive();
    ASSERT_TRUE(received.ok()) << received.status();
    ASSERT_EQ(received->response.id(), i);
  }
}

TEST_F(LocalHostile, ForgedPagesHurtNobody) {
  ns_.MustPut("key", "value");
  Serve();
  Worker forger = Open(), bystander = Open();
  const std::span<std::byte> page = forger.raw().page_memory();
  for (std::byte& byte : page.subspan(0, shm::SessionPage::kRingsOffset)) byte = std::byte{0xff};
  shm::SessionPage slots = forger.raw().page();
  for (uint32_t i = 0; i < kDefaultPinSlots; ++i) slots.slot(i).store(~uint64_t{0} - i);
  for (uint32_t i = 0; i < 1'000; ++i) slots.touch(0, i).store(~uint64_t{0} << 32 | i);
  v1::LocalRequest drain;
  drain.mutable_drain();
  ASSERT_TRUE(forger.raw().Send(drain).ok());
  forger.Ping();
  ns_.MaintainAll();
  EXPECT_EQ(bystander.Get("key", clock_.NowMs()), "value");
  bystander.Put("other", "value");
}

TEST_F(LocalHostile, SixtyFourSessionsWorkAtOnce) {
  const auto big = Create("big", 32 * kMiB);
  Serve({.threads = 4});
  std::vector<std::thread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([this, t] {
      Worker worker = Open({.namespace_name = "big"});
      for (int i = 0; i < 20; ++i) {
        const std::string key = std::to_string(t) + "/" + std::to_string(i);
        worker.Put(key, key);
        worker.PutInline(key + "/inline", key);
        EXPECT_EQ(worker.Get(key, clock_.NowMs()), key);
        const auto found = worker.Lookup({key + "/inline"});
        EXPECT_EQ(worker.BytesOf(found[0]), key);
        worker.Release({found[0].lease()});
        worker.Remove({key});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kClosed) == 64; }));
  EXPECT_EQ(big->Stats().objects, 64u * 20u);
  EXPECT_EQ(big->Stats().pins, 0u);
}

}  // namespace
}  // namespace infercache::local

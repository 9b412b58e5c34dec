// Daemons that are not there, go, come back, stand still or take their leave: nothing hangs, and
// nobody restarts.

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"
#include "tests/client/local_testing.h"
#include "tests/file_limit.h"

namespace infercache {
namespace {

constexpr absl::Duration kFast = absl::Seconds(2);

// First in this file, because it forks: nothing here has had a second thread yet.
TEST(LocalStoppedDaemon, HitsGoOnAndPutsRunOutOfTime) {
  DaemonProcess daemon;
  LocalClient client(daemon.path());
  ASSERT_EQ(client.Put("k", "value").outcome, PutOutcome::kStored);
  daemon.Signal(SIGSTOP);
  EXPECT_EQ(client.Read("k"), "value");
  for (const size_t size : {10, 100'000}) {
    const PutResult put = client.Put("new", std::string(size, 'v'), false, absl::Milliseconds(100));
    EXPECT_TRUE(absl::IsDeadlineExceeded(put.status)) << put.status;
  }
  EXPECT_EQ(client.Read("k"), "value");
  // More views than there are slots: nobody waits a second time for what does not come.
  const std::vector<std::string_view> many(2000, "k");
  for (int i = 0; i < 5; ++i) {
    Reached reached;
    const absl::Time start = absl::Now();
    for (const GetResult& got : client.transport().GetNow(many, LocalTransport::Copies::kAllowed,
                                                          start + kFast, &reached)) {
      ASSERT_TRUE(got.hit()) << got.status;
    }
    EXPECT_TRUE(i == 0 || absl::Now() - start < kFast);
  }
  daemon.Signal(SIGCONT);
  EXPECT_TRUE(client.Reaches());
  EXPECT_EQ(client.Put("newer", "v").outcome, PutOutcome::kStored);
}

// It was told that the daemon makes no sense.
TEST(LocalFullProcess, SaysThatItIsOutOfDescriptors) {
  DaemonProcess daemon;
  LocalClient first(daemon.path());
  ASSERT_TRUE(first.Reaches());
  std::unique_ptr<LocalClient> client;
  {
    const FileLimit full(/*room=*/1);  // for the socket, and not for what comes over it
    client = std::make_unique<LocalClient>(daemon.path());
    const ReserveResult refused = client->Reserve("k", 100'000);
    EXPECT_TRUE(absl::IsResourceExhausted(refused.status)) << refused.status;
    EXPECT_NE(refused.status.message().find("file descriptors"), std::string::npos);
  }
  EXPECT_TRUE(client->Reaches());
}

int MappingsOfDaemons() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:infercache") != std::string::npos) ++count;
  }
  return count;
}

TEST(LocalKilledDaemon, IsReplacedWithoutARestart) {
  const std::string path = NewSocketPath();
  // Both are forked before there is a thread.
  DaemonProcess next(path, DaemonProcess::Begins::kWhenTold);
  auto daemon = std::make_unique<DaemonProcess>(path);
  LocalClient client(path);
  ASSERT_EQ(client.Put("k", "value").outcome, PutOutcome::kStored);
  GetResult held = client.View("k");
  ReserveResult room = client.Reserve("room", 3);
  const int mappings = MappingsOfDaemons();
  EXPECT_GT(mappings, 0);
  daemon->Kill();
  EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Get("k").status); }));
  // One view kept all of a dead daemon's memory. Now it is the chunk in which both are, mapped for
  // reading and for writing, and the page with the pin.
  EXPECT_TRUE(Eventually([&] { return MappingsOfDaemons() == 3; }, absl::Seconds(1)));
  next.Begin();
  EXPECT_TRUE(client.Reaches());
  EXPECT_EQ(client.Read("k"), "(miss)");
  EXPECT_EQ(client.Put("k", "another").outcome, PutOutcome::kStored);
  EXPECT_EQ(client.Read("k"), "another");
  EXPECT_EQ(Text(held.object->bytes()), "value") << "of the daemon that is dead";
  std::memcpy(room.reservation->bytes().data(), "xyz", 3);
  EXPECT_FALSE(client.Commit(*std::move(room.reservation)).status.ok());
  EXPECT_EQ(MappingsOfDaemons(), mappings + 3);
  held = {};
  EXPECT_TRUE(Eventually([&] { return MappingsOfDaemons() == mappings; }, absl::Seconds(1)));
}

TEST(LocalDeadDaemon, EveryCallFailsFast) {
  LocalClient client(NewSocketPath());
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(client.Get("k").status));
  EXPECT_TRUE(absl::IsUnavailable(client.View("k").status));
  EXPECT_TRUE(absl::IsUnavailable(client.Put("k", "v").status));
  EXPECT_TRUE(absl::IsUnavailable(client.Reserve("k", 1).status));
  EXPECT_TRUE(absl::IsUnavailable(client.Ping()));
  const std::string_view key = "k";
  EXPECT_TRUE(absl::IsUnavailable(client.Match(std::span(&key, 1)).status));
  EXPECT_LT(absl::Now() - start, kFast);
}

TEST(LocalDeadDaemon, IsFoundWhenItComes) {
  LocalSetup setup;
  setup.options.socket_path = NewSocketPath();
  LocalClient client(setup.options.socket_path);
  EXPECT_FALSE(client.Ping().ok());
  LocalDaemon daemon(setup);
  EXPECT_TRUE(client.Reaches());
  EXPECT_EQ(client.Put("k", "v").outcome, PutOutcome::kStored);
  EXPECT_EQ(client.Read("k"), "v");
}

TEST(LocalRestart, IsAMissAndThenANewDaemon) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(client.Reaches());
    ASSERT_EQ(client.Put("k", absl::StrCat("v", round)).outcome, PutOutcome::kStored) << round;
    ASSERT_EQ(client.Read("k"), absl::StrCat("v", round));
    daemon.Stop();
    daemon.Start();
    // The old one's objects are gone with it.
    ASSERT_TRUE(Eventually([&] { return client.Read("k") == "(miss)"; }));
  }
}

TEST(LocalRestart, UnderLoad) {
  LocalDaemon daemon;
  LocalClient writer(daemon.path());
  LocalClient client(daemon.path());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const std::string key = absl::StrCat("k", (i + t) % 10);
        const std::string value(1 + 10'000 * (i % 3), 'v');
        writer.Put(key, value, /*overwrite=*/true);
        const GetResult got = client.Get(key);
        if (!got.hit()) continue;
        ++hits;
        ASSERT_EQ(Text(got.object->bytes()).find_first_not_of('v'), std::string::npos);
      }
    });
  }
  for (int round = 0; round < 5; ++round) {
    const uint64_t before = hits;
    EXPECT_TRUE(Eventually([&] { return hits > before + 100; }));
    daemon.Stop();
    daemon.Start();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// Accepts connections into its backlog and never says a word.
TEST(LocalSilentDaemon, CostsOneDeadline) {
  const std::string path = NewSocketPath();
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  LocalClient client(path);
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Get("k", absl::Milliseconds(100)).status));
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(client.Put("k", "v", false, absl::Milliseconds(100)).status));
  std::atomic<bool> done{false};
  client.transport().Ping(/*wait_for_daemon=*/true, absl::Now() + absl::Milliseconds(100),
                          [&](const absl::Status& status, Reached reached) {
                            EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
                            EXPECT_EQ(reached, Reached::kNotInTime);
                            done = true;
                          });
  EXPECT_TRUE(Eventually([&] { return done.load(); }));
  EXPECT_LT(absl::Now() - start, kFast);
  unlink(path.c_str());
}

// It used to keep everybody from their answers.
TEST(LocalCallback, ThatTakesLongKeepsNobodyWaiting) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ASSERT_TRUE(client.Reaches());
  std::atomic<bool> called{false}, release{false};
  client.transport().Ping(/*wait_for_daemon=*/false, absl::Now() + absl::Minutes(1),
                          [&](const absl::Status&, Reached) {
                            called = true;
                            Eventually([&] { return release.load(); });
                          });
  ASSERT_TRUE(Eventually([&] { return called.load(); }));
  EXPECT_TRUE(client.Ping(kFast).ok());
  EXPECT_EQ(client.Put("k", "value").outcome, PutOutcome::kStored);
  release = true;
  client.Destroy();
}

TEST(LocalDestruction, CancelsWhatIsUnderWay) {
  LocalDaemon daemon;
  auto client = std::make_unique<LocalClient>(daemon.path());
  std::atomic<int> ended{0};
  for (int i = 0; i < 200; ++i) {
    static const std::string value(100'000, 'v');
    const std::string key = absl::StrCat("k", i);
    const PutItem item = {.key = key, .info = {}, .parts = {}, .value = {Bytes(value)}};
    client->transport().Put(std::span(&item, 1), absl::Now() + absl::Minutes(1),
                            [&](const std::vector<PutResult>&, Reached) { ++ended; });
  }
  client = nullptr;
  EXPECT_EQ(ended, 200);
  EXPECT_TRUE(Eventually([&] { return daemon.stats().sessions == 0; }));
  EXPECT_EQ(daemon.namespace_stats().reservations, 0u);
  EXPECT_EQ(daemon.namespace_stats().quarantined_bytes, 0u);
}

// A link used to be called after its end, about the connection that it was just making.
TEST(LocalDestruction, AtAnyMomentOfConnecting) {
  LocalDaemon daemon;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        LocalClient client(daemon.path());
        // Later and later: before, during and after the handshake.
        GetResult ignored;
        for (int j = 0; j < i * t; ++j) {
          client.transport().TryGet("k", LocalTransport::Copies::kAllowed, &ignored);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([&] { return daemon.stats().sessions == 0; }));
  LocalClient client(daemon.path());
  EXPECT_TRUE(client.Reaches());
}

TEST(LocalGoodbye, PutsAreRefusedAndHitsGoOn) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", "value");
  ReserveResult reserved = client.Reserve("reserved", 10);
  daemon.BeginDrain();
  ASSERT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Put("new", "v").status); }));
  EXPECT_EQ(client.Read("k"), "value");
  EXPECT_EQ(client.Commit(*std::move(reserved.reservation)).outcome, PutOutcome::kStored);
}

TEST(LocalGoodbye, ADeletedNamespaceIsFoundAgainWhenItIsMadeAnew) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", "value");
  ASSERT_TRUE(daemon.store().DeleteNamespace("default").ok());
  EXPECT_EQ(client.Read("k"), "(miss)");
  EXPECT_TRUE(Eventually([&] { return !client.Ping().ok(); }));
  store::NamespaceSpec spec;
  spec.name = "default";
  spec.quota_bytes = 1 << 20;
  ASSERT_TRUE(daemon.store().CreateNamespace(spec).ok());
  EXPECT_TRUE(Eventually([&] { return client.Put("k", "new").status.ok(); }));
  EXPECT_EQ(client.Read("k"), "new");
}

TEST(LocalRefusal, IsWhatEveryCallSays) {
  LocalDaemon daemon;
  LocalClient client(daemon.path(), "no-such");
  const GetResult got = client.Get("k");
  EXPECT_TRUE(absl::IsNotFound(got.status)) << got.status;
  EXPECT_TRUE(absl::IsNotFound(client.Put("k", "v").status));
}

}  // namespace
}  // namespace infercache

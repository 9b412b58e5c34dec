// A fork while a client is in use: the child has no client, may drop what it inherited, and can
// make its own. Over gRPC as far as it goes without gRPC, which does not survive forks.

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/local/local_server.h"
#include "server/store/store.h"
#include "tests/build_kind.h"
#include "tests/client/client_testing.h"

namespace infercache {
namespace {

class Fork : public ::testing::Test {
 protected:
  Fork() {
    options_.socket_path =
        absl::StrCat(::testing::TempDir(), "/infercache-fork-", getpid(), "-", ++count_, ".sock");
    store::NamespaceSpec spec;
    spec.name = "default";
    spec.quota_bytes = 16 << 20;
    namespace_ = *store_.CreateNamespace(spec);
    server_ = *local::LocalServer::Start(options_, store_);
    client_ = Connect();
  }

  std::unique_ptr<Client> Connect() {
    return ConnectOrDie({.endpoint = absl::StrCat("unix:", options_.socket_path)});
  }

  // Its exit code, or -1 if a signal ended it. A child that hangs is ended by an alarm.
  template <typename Body>
  static int InChild(Body body) {
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(30);
      _exit(body());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  static inline int count_ = 0;
  local::LocalOptions options_;
  MonotonicClock clock_;
  store::Store store_{{.capacity_bytes = 64 << 20}, clock_};
  std::shared_ptr<store::Namespace> namespace_;
  std::unique_ptr<local::LocalServer> server_;
  std::unique_ptr<Client> client_;
};

// Which of the calls of a child did not say what they should, as a bit set.
int CallsThatDoNotRefuse(Client& client) {
  const auto refused = [](const absl::Status& status) {
    return absl::IsUnavailable(status) &&
           status.message().find("parent process") != absl::string_view::npos;
  };
  const std::string_view key = "k";
  const auto keys = std::span(&key, 1);
  std::string buffer(10, '.');
  const auto destination = std::as_writable_bytes(std::span(buffer));
  const ReserveItem item = {.key = key, .size_bytes = 10};
  const absl::Status statuses[] = {client.Get("k").status,
                                   client.View("k").status,
                                   client.GetInto("k", destination).status,
                                   client.Put(Item("k", "v")).status,
                                   client.Match(keys).status,
                                   client.Exists(keys).status,
                                   client.Ping(),
                                   client.Reserve(std::span(&item, 1)).front().status,
                                   client.List("").status};
  int wrong = 0;
  for (size_t i = 0; i < std::size(statuses); ++i) {
    if (!refused(statuses[i])) wrong |= 1 << i;
  }
  return wrong;
}

TEST_F(Fork, AChildsCallsAreRefused) {
  client_->Put(Item("k", "value"));
  EXPECT_EQ(InChild([&] { return CallsThatDoNotRefuse(*client_); }), 0);
  EXPECT_TRUE(client_->Get("k").hit()) << "the parent's go on";
}

TEST_F(Fork, AChildsAsynchronousCallsAreRefusedInItsOwnQueue) {
  const std::string_view key = "k";
  EXPECT_EQ(InChild([&] {
              const RequestId id = client_->SubmitGet(std::span(&key, 1));
              const std::vector<Completion> completions = WaitFor(*client_, 1);
              return completions.size() == 1 && completions[0].id == id &&
                             absl::IsUnavailable(completions[0].get[0].status)
                         ? 0
                         : 1;
            }),
            0);
  EXPECT_TRUE(client_->Drain().empty());
}

// It woke the parent instead, whose Drain then ended the parent.
TEST_F(Fork, AChildWithoutDescriptorsKeepsItsCompletionsFromTheParent) {
  const std::string_view key = "k";
  EXPECT_EQ(
      InChild([&] {
        const rlimit none = {0, 0};
        if (setrlimit(RLIMIT_NOFILE, &none) != 0) return 1;
        client_->SubmitGet(std::span(&key, 1));
        if (client_->event_fd() != -1) return 2;
        const std::vector<Completion> completions = client_->Drain();
        return completions.size() == 1 && absl::IsUnavailable(completions[0].get[0].status) ? 0 : 3;
      }),
      0);
  pollfd waiting = {.fd = client_->event_fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&waiting, 1, 0), 0) << "nothing of the parent's has completed";
}

TEST_F(Fork, AChildComputesForItselfAndDropsClaimsThatAreTheParents) {
  const std::string_view key = "claimed";
  client_->SubmitGetOrReserve(std::span(&key, 1));
  std::vector<Completion> won = WaitFor(*client_, 1);
  ASSERT_TRUE(won[0].get_or_reserve[0].result.claim.has_value());
  EXPECT_EQ(InChild([&] {
              won.clear();
              const ComputeResult result = client_->GetOrCompute(
                  "k", [](ComputeSlot& slot) { return slot.Allocate(5).status(); });
              return result.object.has_value() && absl::IsUnavailable(result.stored) ? 0 : 1;
            }),
            0);
  EXPECT_EQ(namespace_->Stats().claims.claims, 1u) << "it is still the parent's";
}

TEST_F(Fork, AChildMayDropWhatItInherited) {
  client_->Put(Item("k", "value"));
  GetResult view = client_->View("k");
  ASSERT_TRUE(view.hit()) << view.status;
  const ReserveItem item = {.key = "reserved", .size_bytes = 1000};
  std::vector<ReserveResult> reserved = client_->Reserve(std::span(&item, 1));
  ASSERT_TRUE(reserved[0].reservation.has_value());
  EXPECT_EQ(InChild([&] {
              view.object.reset();
              reserved.clear();
              client_.reset();
              return 0;
            }),
            0);
  EXPECT_EQ(namespace_->Stats().client_pins, 1u) << "the pin is the parent's";
  EXPECT_EQ(Text(view.object->bytes()), "value");
  std::fill(reserved[0].reservation->bytes().begin(), reserved[0].reservation->bytes().end(),
            std::byte{'x'});
  Reservation& reservation = *reserved[0].reservation;
  EXPECT_EQ(client_->Commit(std::span(&reservation, 1))[0].outcome, PutOutcome::kStored);
}

TEST_F(Fork, AChildMakesAClientOfItsOwn) {
  client_->Put(Item("k", "value"));
  EXPECT_EQ(InChild([&] {
              auto own = Connect();
              if (own->Put(Item("child", "v")).outcome != PutOutcome::kStored) return 1;
              const GetResult got = own->Get("k");
              if (!got.hit() || Text(got.object->bytes()) != "value") return 2;
              own.reset();
              return CallsThatDoNotRefuse(*client_) == 0 ? 0 : 3;
            }),
            0);
  EXPECT_TRUE(client_->Get("child").hit());
}

TEST_F(Fork, AChildThatLivesOnKeepsNoSessionOfItsParent) {
  ASSERT_TRUE(client_->Ping().ok());
  ASSERT_EQ(server_->stats().sessions, 1u);
  int end[2];
  ASSERT_EQ(pipe(end), 0);
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    close(end[1]);
    char byte;
    _exit(read(end[0], &byte, 1) == 0 ? 0 : 1);
  }
  close(end[0]);
  client_ = nullptr;
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (server_->stats().sessions > 0 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(server_->stats().sessions, 0u);
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "the child has lived on";
  close(end[1]);
  waitpid(child, nullptr, 0);
}

// All there is to inherit, while other threads make more of it.
TEST_F(Fork, AChildDropsEverythingInTheMiddleOfEverything) {
  if (kAddressSanitizer) {
    GTEST_SKIP()
        << "gcc 12's AddressSanitizer forks with its allocator's locks as they are: the child "
           "of a process with threads waits for them for ever";
  }
  client_->Put(Item("k", "value"));
  const GetResult view = client_->View("k");
  ASSERT_TRUE(view.hit()) << view.status;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t](const std::stop_token& stop) {
      std::string buffer(100'000, '.');
      for (int i = 0; !stop.stop_requested(); ++i) {
        const std::string key = absl::StrCat("k", t, "/", i % 10);
        client_->Put(Item(key, buffer));
        client_->Get(key);
        client_->GetInto(key, std::as_writable_bytes(std::span(buffer)));
      }
    });
  }
  const std::string value(200'000, 'v');
  for (int i = 0; i < 10; ++i) {
    GetResult inherited = client_->View("k");
    const std::string reserved_key = absl::StrCat("reserved", i);
    const ReserveItem item = {.key = reserved_key, .size_bytes = 1000};
    std::vector<ReserveResult> reserved = client_->Reserve(std::span(&item, 1));
    ASSERT_TRUE(reserved[0].reservation.has_value()) << reserved[0].status;
    const std::string put_key = absl::StrCat("async", i);
    const PutItem put = Item(put_key, value);
    const RequestId id = client_->SubmitPut(std::span(&put, 1));
    ASSERT_EQ(InChild([&] {
                if (CallsThatDoNotRefuse(*client_) != 0) return 1;
                inherited.object.reset();
                reserved.clear();
                client_.reset();
                const auto own = Connect();
                if (!own->Ping().ok()) return 2;
                return own->Get("k").hit() ? 0 : 3;
              }),
              0)
        << i;
    const std::vector<Completion> completions = WaitFor(*client_, 1);
    ASSERT_EQ(completions.size(), 1u);
    EXPECT_EQ(completions[0].id, id);
    EXPECT_EQ(completions[0].put[0].outcome, PutOutcome::kStored) << completions[0].put[0].status;
    Reservation& reservation = *reserved[0].reservation;
    std::fill(reservation.bytes().begin(), reservation.bytes().end(), std::byte{'x'});
    EXPECT_EQ(client_->Commit(std::span(&reservation, 1))[0].outcome, PutOutcome::kStored);
  }
  threads.clear();
  EXPECT_EQ(Text(view.object->bytes()), "value");
  EXPECT_TRUE(client_->Get("k").hit());
}

// Whatever locks the other threads hold at that moment.
TEST_F(Fork, InTheMiddleOfEverything) {
  if (kAddressSanitizer) {
    GTEST_SKIP() << "AddressSanitizer's allocator may be locked, for good, in the child";
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const std::string key = absl::StrCat("k", t, "/", i % 10);
        client_->Put(Item(key, "value"));
        client_->Get(key);
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(InChild([&] {
                if (CallsThatDoNotRefuse(*client_) != 0) return 1;
                client_.reset();
                return Connect()->Ping().ok() ? 0 : 2;
              }),
              0)
        << i;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace infercache

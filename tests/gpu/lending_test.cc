// Workers that lend each other what they have in a GPU's memory, each a process of its own, and
// what is left when one of them is killed.

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>

#include "tests/build_kind.h"
#include "tests/chaos/worker_process.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/legacy_buffer.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {
namespace {

using chaos::WorkerProcess;
using local::Eventually;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPromised{100};
constexpr int kRounds = Scaled(200);
constexpr bool kSlowBuild = kThreadSanitizer || kAddressSanitizer;

// A worker's process, told what to do.
class Told {
 public:
  explicit Told(std::unique_ptr<WorkerProcess> process) : process_(std::move(process)) {}

  std::string Do(const std::string& line) {
    Begin(line);
    return Answer();
  }
  void Begin(const std::string& line) { EXPECT_TRUE(process_->Send(line + "\n").ok()); }
  std::string Answer() {
    const auto answer = process_->ReadLine();
    return answer.ok() ? *answer : std::string(answer.status().message());
  }
  // Returns when the kernel said so.
  steady_clock::time_point Kill() {
    process_->Signal(SIGKILL);
    return process_->AwaitDeath();
  }
  // Lets it end as a worker does.
  void End() {
    process_->EndInput();
    (void)process_->AwaitDeath();
  }

 private:
  std::unique_ptr<WorkerProcess> process_;
};

// No namespace here has a tier: lending takes none.
class GpuLending : public cuda::OnGpu<local::LocalFixture>,
                   public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Create("default");
    Serve();
    if (is_fake()) before_ = fake().UseOf(0);
  }
  void TearDown() override {
    if (!IsSkipped() && is_fake()) {
      fake().ClearFaults();
      EXPECT_TRUE(Eventually([&] { return fake().UseOf(0) == before_; })) << "not given back";
      EXPECT_EQ(fake().calls().freed_while_open.load(), 0u);
    }
    OnGpu::TearDown();
  }

  Told Start() {
    auto process = WorkerProcess::Start(LENDING_WORKER_BINARY, {socket_path(), device_.uuid});
    EXPECT_TRUE(process.ok()) << process.status();
    Told worker(*std::move(process));
    EXPECT_EQ(worker.Answer(), "ready");
    return worker;
  }
  // One that has lent `text` under `key`.
  Told StartOwner(const std::string& kind, const std::string& text = "text",
                  const std::string& key = "key") {
    Told owner = Start();
    EXPECT_EQ(owner.Do("alloc " + kind), "ok");
    EXPECT_EQ(owner.Do("fill " + text), "ok");
    EXPECT_EQ(owner.Do("lend " + key), "lent");
    return owner;
  }
  Told StartReader() {
    Told reader = Start();
    EXPECT_EQ(reader.Do("borrow key"), "hit");
    return reader;
  }
  uint64_t Opens() { return fake().calls().ipc_opens.load() + fake().calls().imports.load(); }
  bool NothingIsLent() const {
    const local::LendingStats stats = server_->stats().lending;
    return stats.loans + stats.allocations + stats.borrowed + stats.mapped == 0;
  }

 private:
  fake_cuda::Use before_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, GpuLending, ::testing::Values("legacy", "vmm"));

TEST_P(GpuLending, WhatOneLendsAnotherReads) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  EXPECT_EQ(reader.Do("read"), "text");
  // The very bytes, not a copy: while the owner breaks its word, that is to be seen.
  EXPECT_EQ(owner.Do("fill changed"), "ok");
  EXPECT_EQ(reader.Do("read"), "changed");
  EXPECT_EQ(reader.Do("borrow other"), "miss");
}

TEST_P(GpuLending, NothingIsOpenedAfterTheFirstTime) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not count";
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  const uint64_t opens = Opens(), maps = fake().calls().maps.load(),
                 closes = fake().calls().ipc_closes.load(), unmaps = fake().calls().unmaps.load();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(reader.Do("release"), "ok");
    ASSERT_EQ(reader.Do("borrow key"), "hit");
  }
  // More of the same allocation, lent and taken back.
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(owner.Do("lend more"), "lent");
    ASSERT_EQ(reader.Do("borrow more"), "hit");
    ASSERT_EQ(reader.Do("release"), "ok");
    ASSERT_EQ(owner.Do("take_back more 30000"), "OK");
  }
  EXPECT_EQ(Opens(), opens);
  EXPECT_EQ(fake().calls().maps.load(), maps);
  EXPECT_EQ(fake().calls().ipc_closes.load(), closes);
  EXPECT_EQ(fake().calls().unmaps.load(), unmaps);
}

TEST_P(GpuLending, WhatWasTakenBackMayBeFreed) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  EXPECT_EQ(owner.Do("take_back key 50"), "DEADLINE_EXCEEDED");
  EXPECT_EQ(reader.Do("read"), "text") << "it is the reader's as long as that has it";
  Told late = Start();
  EXPECT_EQ(late.Do("borrow key"), "miss");
  owner.Begin("take_back key 30000");
  EXPECT_EQ(reader.Do("release"), "ok");
  EXPECT_EQ(owner.Answer(), "OK");
  if (is_fake()) {
    EXPECT_EQ(fake().UseOf(0).opened, 0u);
  }
  EXPECT_EQ(owner.Do("free"), "ok");
  EXPECT_TRUE(NothingIsLent());
  EXPECT_EQ(owner.Do("take_back key 50"), "NOT_FOUND");
}

// The driver may give a new allocation the handle, and the address, of one that was freed.
TEST_P(GpuLending, AnotherAllocationIsAnotherWhateverItsHandle) {
  Told owner = Start();
  Told reader = Start();
  for (int round = 0; round < 5; ++round) {
    const std::string text = "round" + std::to_string(round);
    ASSERT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
    ASSERT_EQ(owner.Do("fill " + text), "ok");
    ASSERT_EQ(owner.Do("lend key"), "lent");
    ASSERT_EQ(reader.Do("borrow key"), "hit");
    EXPECT_EQ(reader.Do("read"), text);
    ASSERT_EQ(reader.Do("release"), "ok");
    ASSERT_EQ(owner.Do("take_back key 30000"), "OK");
  }
}

TEST_P(GpuLending, AStreamKeepsWhatItReads) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  fake().StickStreams();
  EXPECT_EQ(reader.Do("release_after"), "ok");
  // Its own stream is stuck as well, but a take-back does not wait for that.
  EXPECT_EQ(owner.Do("take_back key 50"), "DEADLINE_EXCEEDED");
  fake().FreeStreams();
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
  EXPECT_EQ(owner.Do("free"), "ok");
}

TEST_P(GpuLending, AReaderThatIsKilledIsNotWaitedFor) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  owner.Begin("take_back key 30000");
  EXPECT_TRUE(Eventually([&] { return Start().Do("borrow key") == "miss"; }));
  const auto died = reader.Kill();
  EXPECT_EQ(owner.Answer(), "OK");
  if (!kSlowBuild) {
    EXPECT_LE(steady_clock::now() - died, kPromised);
  }
  EXPECT_EQ(owner.Do("free"), "ok");
}

TEST_P(GpuLending, AnOwnerThatIsKilledLeavesReadersWhatTheyHave) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  const auto died = owner.Kill();
  while (!NothingIsLent() && steady_clock::now() - died < std::chrono::seconds(30)) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (!kSlowBuild) {
    EXPECT_LE(steady_clock::now() - died, kPromised);
  }
  EXPECT_EQ(reader.Do("read"), "text");
  EXPECT_EQ(reader.Do("release"), "ok");
  EXPECT_EQ(reader.Do("borrow key"), "miss");
  if (is_fake()) {
    EXPECT_TRUE(Eventually([&] {
      return fake().UseOf(0).opened == 0 && fake().UseOf(0).mappings == 1;
    })) << "the reader has its own buffer mapped, and nothing else";
  }
  Told next = StartOwner(GetParam(), "next");
  EXPECT_EQ(reader.Do("borrow key"), "hit");
  EXPECT_EQ(reader.Do("read"), "next");
}

TEST_P(GpuLending, ADeviceThatIsClosedLendsNothing) {
  Told owner = StartOwner(GetParam());
  EXPECT_EQ(owner.Do("lend other"), "lent");
  Told reader = StartReader();
  EXPECT_EQ(owner.Do("close"), "ok");
  EXPECT_TRUE(Eventually([&] { return reader.Do("borrow other") == "miss"; }));
  EXPECT_EQ(reader.Do("read"), "text");
  EXPECT_EQ(reader.Do("release"), "ok");
  EXPECT_TRUE(Eventually([&] { return NothingIsLent(); }));
}

// What was borrowed outlives the device that borrowed it.
TEST_P(GpuLending, WhatAClosedDeviceBorrowedIsStillReturned) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  EXPECT_EQ(reader.Do("close"), "ok");
  EXPECT_EQ(reader.Do("read"), "text");
  EXPECT_EQ(owner.Do("take_back key 50"), "DEADLINE_EXCEEDED");
  EXPECT_EQ(reader.Do("release"), "ok");
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
}

TEST_P(GpuLending, WithoutTheDaemonNobodyCanSayWhoHasIt) {
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  server_->Shutdown(absl::InfinitePast());
  EXPECT_EQ(owner.Do("take_back key 30000"), "UNAVAILABLE");
  EXPECT_EQ(reader.Do("read"), "text");
  EXPECT_EQ(reader.Do("release"), "ok");
  if (is_fake()) {
    EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).opened == 0; }));
  }
}

TEST_P(GpuLending, MemoryThatIsNotExportedIsRefusedOrCopied) {
  Told owner = Start();
  EXPECT_EQ(owner.Do("alloc private"), "ok");
  EXPECT_EQ(owner.Do("fill text"), "ok");
  EXPECT_EQ(owner.Do("lend key"), "UNIMPLEMENTED");
  EXPECT_EQ(owner.Do("lend_or_copy key"), "copied");
  EXPECT_TRUE(NothingIsLent());
  const auto host = store::NamespaceVerbs(*store_->FindNamespace("default")).Lookup("key");
  ASSERT_TRUE(host.has_value());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(host->bytes().data()), 4), "text");
}

TEST_P(GpuLending, TheSamePidIsToldApartOnlyByADescriptor) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().same_pid.store(1);
  Told owner = StartOwner(GetParam());
  Told reader = Start();
  const bool legacy = std::string(GetParam()) == "legacy";
  EXPECT_EQ(reader.Do("borrow key"), legacy ? "FAILED_PRECONDITION" : "hit");
  const uint64_t opens = Opens();
  EXPECT_EQ(reader.Do("borrow key"), legacy ? "FAILED_PRECONDITION" : "hit");
  EXPECT_EQ(Opens(), opens) << "what fails for good is not tried again";
  // The owner itself needs no handle, and nothing of it stays behind at the reader.
  EXPECT_EQ(owner.Do("borrow key"), "hit");
  EXPECT_EQ(owner.Do("read"), "text");
  EXPECT_EQ(owner.Do("release"), "ok");
  EXPECT_EQ(reader.Do(legacy ? "borrow other" : "release"), legacy ? "miss" : "ok");
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
}

struct LendingStep {
  const char* name;
  bool kill_owner;
  std::vector<const char*> owner = {}, reader = {};
  const char* owner_begins = nullptr;  // and is killed, or the reader is, before it is answered
  bool stuck = false;                  // streams are, from before the reader's last step on
};
const std::vector<LendingStep> kLendingSteps = {
    {"owner: connected", true},
    {"owner: allocated", true, {"alloc legacy"}},
    {"owner: lent", true, {"alloc legacy", "fill x", "lend key"}},
    {"owner: borrowed of", true, {"alloc legacy", "fill x", "lend key"}, {"borrow key"}},
    {"owner: taking back",
     true,
     {"alloc legacy", "fill x", "lend key"},
     {"borrow key"},
     "take_back key 30000"},
    {"owner: taken back", true, {"alloc legacy", "fill x", "lend key", "take_back key 30000"}},
    {"owner: by descriptor", true, {"alloc vmm", "fill x", "lend key"}, {"borrow key"}},
    {"reader: has it", false, {"alloc legacy", "fill x", "lend key"}, {"borrow key"}},
    {"reader: has it mapped",
     false,
     {"alloc legacy", "fill x", "lend key"},
     {"borrow key", "release"}},
    {"reader: its stream has it",
     false,
     {"alloc legacy", "fill x", "lend key"},
     {"borrow key", "release_after"},
     nullptr,
     true},
    {"reader: waited for",
     false,
     {"alloc vmm", "fill x", "lend key"},
     {"borrow key"},
     "take_back key 30000"},
};

class GpuLendingDeath : public GpuLending {
 protected:
  // Kills one of the two at `step`, and lets the other end.
  void Kill(const LendingStep& step) {
    Told owner = Start(), reader = Start();
    for (const char* line : step.owner) ASSERT_NE(owner.Do(line).substr(0, 4), "UNAV") << line;
    for (const char* line : step.reader) {
      if (step.stuck && line == step.reader.back()) fake().StickStreams();
      const std::string answer = reader.Do(line);
      ASSERT_TRUE(answer == "ok" || answer == "hit") << line << ": " << answer;
    }
    if (step.owner_begins != nullptr) {
      owner.Begin(step.owner_begins);
      Told third = Start();
      ASSERT_TRUE(Eventually([&] {
        const bool gone = third.Do("borrow key") == "miss";
        if (!gone) third.Do("release");
        return gone;
      }));
      third.End();
    }
    const auto died = step.kill_owner ? owner.Kill() : reader.Kill();
    const auto given_back = [&] {
      const local::LocalStats stats = server_->stats();
      return stats.sessions == 1 && stats.borrowed + stats.mapped_allocations == 0 &&
             (!step.kill_owner || stats.loans + stats.lent_allocations == 0);
    };
    while (!given_back() && steady_clock::now() - died < std::chrono::seconds(30)) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ASSERT_TRUE(given_back());
    const auto took = steady_clock::now() - died;
    slowest_ = std::max<steady_clock::duration>(slowest_, took);
    if (!kSlowBuild) {
      EXPECT_LE(took, kPromised);
    }
    fake().FreeStreams();
    if (!step.kill_owner) {
      const std::string back =
          step.owner_begins != nullptr ? owner.Answer() : owner.Do("take_back key 30000");
      EXPECT_EQ(back, "OK");
      EXPECT_EQ(owner.Do("free"), "ok");
    }
    (step.kill_owner ? reader : owner).End();
    EXPECT_TRUE(Eventually([&] { return NothingIsLent() && server_->stats().sessions == 0; }));
  }

  steady_clock::duration slowest_{};
};

INSTANTIATE_TEST_SUITE_P(Rounds, GpuLendingDeath, ::testing::Values(""));

TEST_P(GpuLendingDeath, AtEachStepManyTimesLeavesTheGpuAsItWas) {
  if (!is_fake()) GTEST_SKIP() << "counts what processes hold, which a real driver does not tell";
  const fake_cuda::Use before = fake().UseOf(0);
  for (int round = 0; round < kRounds; ++round) {
    const LendingStep& step = kLendingSteps[static_cast<size_t>(round) % kLendingSteps.size()];
    SCOPED_TRACE(step.name);
    Kill(step);
    if (HasFatalFailure()) return;
    ASSERT_TRUE(Eventually([&] { return fake().UseOf(0) == before; }));
  }
  std::printf("slowest of %d: everything given back %.1f ms after the kernel said so\n", kRounds,
              std::chrono::duration<double, std::milli>(slowest_).count());
}

}  // namespace
}  // namespace infercache::gpu

// What workers lend each other in a GPU's memory, and what each of them may do with it.

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/gpu/lending_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using std::chrono::steady_clock;

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

TEST_P(GpuLending, BreaksNoCaptureOfAGraph) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().global_capture.store(1);
  Told owner = StartOwner(GetParam());
  Told reader = StartReader();
  EXPECT_EQ(reader.Do("read"), "text");
  EXPECT_EQ(reader.Do("release"), "ok");
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
  EXPECT_GT(fake().calls().captures_left_alone.load(), 0u);
  EXPECT_EQ(fake().calls().captures_broken.load(), 0u);
}

// CUDA opens no handle in the process that made it: the other one saw nothing of its loans.
TEST_P(GpuLending, TwoClientsOfOneProcessLendEachOther) {
  Told owner = StartOwner(GetParam());
  EXPECT_EQ(owner.Do("borrow_beside key"), "hit");
  EXPECT_EQ(owner.Do("read"), "text");
  EXPECT_EQ(owner.Do("fill changed"), "ok");
  EXPECT_EQ(owner.Do("read"), "changed") << "the very bytes";
  EXPECT_EQ(owner.Do("take_back key 50"), "DEADLINE_EXCEEDED");
  EXPECT_EQ(owner.Do("release"), "ok");
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
  EXPECT_EQ(owner.Do("free"), "ok");
  EXPECT_TRUE(NothingIsLent());
  // Another allocation, in its place.
  EXPECT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
  EXPECT_EQ(owner.Do("fill next"), "ok");
  EXPECT_EQ(owner.Do("lend key"), "lent");
  EXPECT_EQ(owner.Do("borrow_beside key"), "hit");
  EXPECT_EQ(owner.Do("read"), "next");
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

// What was borrowed of one owner was had for as long as the driver unmapped another's memory.
TEST_P(GpuLending, PinsAreReturnedWhileTheDriverUnmaps) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Told first = StartOwner(GetParam(), "text", "first"), second = StartOwner(GetParam());
  // So that the second's memory stays mapped.
  EXPECT_EQ(second.Do("lend other"), "lent");
  Told reader = Start();
  EXPECT_EQ(reader.Do("borrow first"), "hit");
  EXPECT_EQ(reader.Do("borrow key"), "hit");
  const auto unmaps = [] {
    return fake().calls().unmaps.load() + fake().calls().ipc_closes.load();
  };
  const uint64_t before = unmaps();
  fake().faults().unmaps_stuck.store(1);
  first.Begin("take_back first 30000");
  EXPECT_TRUE(Eventually([&] { return unmaps() > before; })) << "the reader is at it";
  EXPECT_EQ(reader.Do("release_after"), "ok");
  EXPECT_EQ(second.Do("take_back key 10000"), "OK");
  fake().FreeUnmaps();
  EXPECT_EQ(first.Answer(), "OK");
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

// A tensor that was lent as a copy, under a key that had one, was said to be copied and was not;
// one in several allocations was called the caller's mistake.
TEST_P(GpuLending, MemoryThatIsNotExportedIsRefusedOrCopied) {
  for (const std::string kind : {"private", "pieces"}) {
    Told owner = Start();
    EXPECT_EQ(owner.Do("alloc " + kind), "ok");
    EXPECT_EQ(owner.Do("fill " + kind), "ok");
    EXPECT_EQ(owner.Do("lend key"), "UNIMPLEMENTED");
    EXPECT_EQ(owner.Do("lend_or_copy key"), "copied");
    EXPECT_TRUE(NothingIsLent());
    const auto host = store::NamespaceVerbs(*store_->FindNamespace("default")).Lookup("key");
    ASSERT_TRUE(host.has_value());
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(host->bytes().data()), kind.size()), kind);
  }
}

// Its owner was told that nobody had it, and might free it.
TEST_P(GpuLending, WhatCannotBeClosedIsHadUntilTheReadersEnd) {
  if (!is_fake()) GTEST_SKIP() << "what a dead context leaves open is the driver's to say";
  Told owner = StartOwner(GetParam());
  {
    Told reader = StartReader();
    EXPECT_EQ(reader.Do("break"), "ok");
    EXPECT_EQ(reader.Do("release"), "ok");
    const bool legacy = std::string(GetParam()) == "legacy";
    EXPECT_EQ(owner.Do("take_back key 300"), legacy ? "DEADLINE_EXCEEDED" : "OK");
  }
  EXPECT_EQ(owner.Do("take_back key 30000"),
            std::string(GetParam()) == "legacy" ? "OK" : "NOT_FOUND");
  EXPECT_EQ(owner.Do("free"), "ok");
}

// A graph that was being captured while a reader opened an allocation left it without for good.
TEST_P(GpuLending, WhatFailsForAMomentIsTriedAgain) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Told owner = StartOwner(GetParam());
  Told reader = Start();
  for (const cuda::Result answer :
       {cuda::kStreamCaptureUnsupported, cuda::kInvalidValue, cuda::kNotSupported}) {
    fake().faults().opens_answer.store(static_cast<uint32_t>(answer));
    EXPECT_NE(reader.Do("borrow key"), "hit");
    fake().faults().opens_answer.store(0);
    EXPECT_EQ(reader.Do("borrow key"), "hit") << answer;
    EXPECT_EQ(reader.Do("release"), "ok");
    // So that the next one is opened anew.
    EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
    EXPECT_EQ(owner.Do("lend key"), "lent");
  }
}

// Two PIDs that differ were said to be the same, for good.
TEST_P(GpuLending, WhatIsNoClashOfPidsIsTriedAgain) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().same_pid.store(1);
  Told owner = StartOwner(GetParam());
  Told reader = Start();
  const bool legacy = std::string(GetParam()) == "legacy";
  EXPECT_EQ(reader.Do("borrow key"), legacy ? "INTERNAL" : "hit");
  EXPECT_EQ(reader.Do("not_opened"), legacy ? "1 0 0" : "0 0 0");
  // The owner itself needs no handle.
  EXPECT_EQ(owner.Do("borrow key"), "hit");
  EXPECT_EQ(owner.Do("read"), "text");
  EXPECT_EQ(owner.Do("release"), "ok");
  fake().faults().same_pid.store(0);
  EXPECT_EQ(reader.Do("borrow key"), "hit");
  EXPECT_EQ(reader.Do("read"), "text");
}

// For readers that cannot open it.
TEST_P(GpuLending, ACopyInHostMemoryIsPutBesideWhatIsLent) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Told owner = Start();
  EXPECT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
  EXPECT_EQ(owner.Do("fill text"), "ok");
  EXPECT_EQ(owner.Do("lend_and_copy key"), "lent and copied");
  Told reader = Start();
  fake().faults().opens_answer.store(cuda::kNotSupported);
  EXPECT_EQ(reader.Do("borrow key"), "UNIMPLEMENTED");
  EXPECT_EQ(reader.Do("in_host"), "text");
  EXPECT_EQ(reader.Do("not_opened"), "1 1 64");
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
}

}  // namespace
}  // namespace infercache::gpu

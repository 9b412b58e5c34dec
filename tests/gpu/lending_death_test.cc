// Workers that lend each other what they have in a GPU's memory, one of which is killed, at each
// step of what they do.
//
//   gpu_lending_test [--rounds=N]

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "tests/chaos/number_option.h"
#include "tests/gpu/lending_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using std::chrono::steady_clock;

int rounds = Scaled(200);

struct LendingStep {
  const char* name;
  bool kill_owner;
  std::vector<const char*> owner = {}, reader = {};
  // Begun by one of them after that. The daemon has it once it counts one of `begun`; its answer is
  // not waited for.
  const char* owner_begins = nullptr;
  const char* reader_begins = nullptr;
  uint64_t local::LendingStats::*begun = nullptr;
  bool stuck = false;  // streams are, from before the reader's last step on
};

std::vector<const char*> Lent(const char* kind = "alloc legacy") {
  return {kind, "fill x", "lend key"};
}

constexpr auto kLent = &local::LendingStats::loans;
constexpr auto kBorrowed = &local::LendingStats::borrowed;
constexpr auto kWaiting = &local::LendingStats::waiting;
const std::vector<LendingStep> kLendingSteps = {
    {"owner: connected", true},
    {"owner: allocated", true, {"alloc legacy"}},
    {"owner: lend sent", true, {"alloc legacy"}, {}, "lend key", nullptr, kLent},
    {"owner: lent", true, Lent()},
    {"owner: borrow sent", true, Lent(), {}, nullptr, "borrow key", kBorrowed},
    {"owner: borrow sent, by descriptor",
     true,
     Lent("alloc vmm"),
     {},
     nullptr,
     "borrow key",
     kBorrowed},
    {"owner: borrowed", true, Lent(), {"borrow key"}},
    {"owner: borrowed, by descriptor", true, Lent("alloc vmm"), {"borrow key"}},
    {"owner: take-back sent",
     true,
     Lent(),
     {"borrow key"},
     "take_back key 30000",
     nullptr,
     kWaiting},
    {"owner: taken back", true, {"alloc legacy", "fill x", "lend key", "take_back key 30000"}},
    {"reader: lend sent", false, {"alloc legacy"}, {}, "lend key", nullptr, kLent},
    {"reader: lent", false, Lent()},
    {"reader: borrow sent", false, Lent(), {}, nullptr, "borrow key", kBorrowed},
    {"reader: borrow sent, by descriptor",
     false,
     Lent("alloc vmm"),
     {},
     nullptr,
     "borrow key",
     kBorrowed},
    {"reader: borrowed", false, Lent(), {"borrow key"}},
    {"reader: mapped", false, Lent(), {"borrow key", "release"}},
    {"reader: its stream has it",
     false,
     Lent(),
     {"borrow key", "release_after"},
     nullptr,
     nullptr,
     nullptr,
     true},
    {"reader: take-back sent",
     false,
     Lent("alloc vmm"),
     {"borrow key"},
     "take_back key 30000",
     nullptr,
     kWaiting},
};

class GpuLendingDeath : public GpuLending {
 protected:
  // Kills one of the two at `step`, and lets the other end.
  void Kill(const LendingStep& step) {
    Told owner = Start(), reader = Start();
    GoTo(step, owner, reader);
    if (HasFatalFailure()) return;
    const auto died = step.kill_owner ? owner.Kill() : reader.Kill();
    while (!IsGivenBack(step) && steady_clock::now() - died < std::chrono::seconds(30)) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ASSERT_TRUE(IsGivenBack(step));
    const auto took = steady_clock::now() - died;
    slowest_ = std::max<steady_clock::duration>(slowest_, took);
    if (!kSlowBuild) {
      EXPECT_LE(took, kPromised);
    }
    fake().FreeStreams();
    if (!step.kill_owner) TakeBackAndFree(step, owner);
    (step.kill_owner ? reader : owner).End();
    EXPECT_TRUE(Eventually([&] { return NothingIsLent() && server_->stats().sessions == 0; }));
  }

  steady_clock::duration slowest_{};

 private:
  void GoTo(const LendingStep& step, Told& owner, Told& reader) {
    for (const char* line : step.owner) {
      const std::string answer = owner.Do(line);
      ASSERT_TRUE(answer == "ok" || answer == "lent" || answer == "OK") << line << ": " << answer;
    }
    for (const char* line : step.reader) {
      if (step.stuck && line == step.reader.back()) fake().StickStreams();
      const std::string answer = reader.Do(line);
      ASSERT_TRUE(answer == "ok" || answer == "hit") << line << ": " << answer;
    }
    if (step.owner_begins != nullptr) owner.Begin(step.owner_begins);
    if (step.reader_begins != nullptr) reader.Begin(step.reader_begins);
    if (step.begun == nullptr) return;
    ASSERT_TRUE(Eventually([&] { return server_->stats().lending.*step.begun == 1; }));
  }

  // The other one's session is there.
  bool IsGivenBack(const LendingStep& step) const {
    const local::LocalStats stats = server_->stats();
    return stats.sessions == 1 && stats.lending.readers == 0 &&
           (!step.kill_owner || stats.lending.loans + stats.lending.allocations == 0);
  }

  static void TakeBackAndFree(const LendingStep& step, Told& owner) {
    const std::string begun = step.owner_begins != nullptr ? owner.Answer() : "lent";
    EXPECT_EQ(begun == "lent" ? owner.Do("take_back key 30000") : begun, "OK");
    EXPECT_EQ(owner.Do("free"), "ok");
  }
};

INSTANTIATE_TEST_SUITE_P(Rounds, GpuLendingDeath, ::testing::Values(""));

TEST_P(GpuLendingDeath, AtEachStepManyTimesLeavesTheGpuAsItWas) {
  if (!is_fake()) GTEST_SKIP() << "counts what processes hold, which a real driver does not tell";
  const fake_cuda::Use before = fake().UseOf(0);
  for (int round = 0; round < rounds; ++round) {
    const LendingStep& step = kLendingSteps[static_cast<size_t>(round) % kLendingSteps.size()];
    SCOPED_TRACE(step.name);
    Kill(step);
    if (HasFatalFailure()) return;
    ASSERT_TRUE(Eventually([&] { return fake().UseOf(0) == before; }));
  }
  std::printf("slowest of %d: everything given back %.1f ms after the kernel said so\n", rounds,
              std::chrono::duration<double, std::milli>(slowest_).count());
}

}  // namespace
}  // namespace infercache::gpu

int main(int argc, char** argv) {
  using infercache::chaos::NumberOption;
  infercache::gpu::rounds = NumberOption(argc, argv, "--rounds=", infercache::gpu::rounds);
  return RUN_ALL_TESTS();
}

// Every eviction policy against a set of the records that must be its members. Which of them it
// names as a victim is its own affair; that it names one, that it is a member and may go, is not.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include "server/store/eviction/policy.h"

namespace infercache::store {
namespace {

constexpr uint32_t kRecords = 48;
// Objects come back under other record numbers, as they do in the store.
constexpr uint64_t kObjects = 96;

class PolicyModel {
 public:
  explicit PolicyModel(const std::string& policy) : policy_(*MakePolicy(policy, nodes_.data())) {}

  void Step() {
    switch (*rc::gen::weightedElement<int>(
        {{8, 0}, {6, 1}, {3, 2}, {2, 3}, {1, 4}, {3, 5}, {2, 6}, {1, 7}})) {
      case 0:
        return Insert();
      case 1:
        if (!members_.empty()) Touch(AnyMember());
        return;
      case 2:
        return Evict();
      case 3:
        if (!members_.empty()) Remove(AnyMember(), /*evicted=*/false);
        return;
      case 4:
        // One that lies beside a victim in the arena.
        if (!members_.empty()) Remove(AnyMember(), /*evicted=*/true);
        return;
      case 5:
        now_ms_ += *rc::gen::element<uint64_t>(1, 99, 100, 5'000, 40'000, 7'200'000);
        return;
      case 6:
        ++request_;
        return;
      default:
        return BusyTime();
    }
  }

  // After every step.
  void Check() const {
    for (uint32_t record = 1; record <= kRecords; ++record) {
      RC_ASSERT((nodes_[record].list != 0) == members_.contains(record));
    }
  }

  // Names every member once.
  void Finish() {
    while (!members_.empty()) {
      const uint32_t victim = policy_->Victim(now_ms_, [](uint32_t) { return true; });
      RC_ASSERT(members_.contains(victim));
      Remove(victim, /*evicted=*/true);
      Check();
    }
    RC_ASSERT(policy_->Victim(now_ms_, [](uint32_t) { return true; }) == 0u);
  }

 private:
  uint32_t AnyMember() const {
    const auto i = *rc::gen::inRange<size_t>(0, members_.size());
    return *std::next(members_.begin(), static_cast<ptrdiff_t>(i));
  }
  Use AnyUse() const {
    return {.now_ms = now_ms_, .request = request_, .ends_request = *rc::gen::arbitrary<bool>()};
  }

  void Insert() {
    const auto record = *rc::gen::inRange<uint32_t>(1, kRecords + 1);
    if (members_.contains(record)) return Touch(record);
    Use use = AnyUse();
    use.hash = hashes_[record] = *rc::gen::inRange<uint64_t>(1, kObjects + 1);
    use.size_bytes = *rc::gen::element<uint64_t>(0, 1, 4'096, 1 << 20);
    if (!members_.empty() && *rc::gen::inRange(0, 3) == 0) use.anchor = AnyMember();
    if (*rc::gen::inRange(0, 8) == 0) use.age_ms = *rc::gen::element<uint64_t>(1, 50, 60'000);
    nodes_[record] = {.used_ms = static_cast<uint32_t>(now_ms_ - use.age_ms),
                      .class_id = *rc::gen::element<uint8_t>(0, 0, 5, 15)};
    policy_->Insert(record, use);
    members_.insert(record);
  }
  void Touch(uint32_t record) {
    Use use = AnyUse();
    CountUse(nodes_[record], &use);
    policy_->Touch(record, use);
  }
  void Remove(uint32_t record, bool evicted) {
    policy_->Remove(record, {.now_ms = now_ms_,
                             .hash = hashes_[record],
                             .idle_ms = static_cast<uint32_t>(now_ms_) - nodes_[record].used_ms,
                             .evicted = evicted});
    members_.erase(record);
  }
  // Some may not go; then and when.
  void Evict() {
    const auto pinned =
        *rc::gen::element<uint64_t>(0, 0, 0x5555'5555'5555, ~uint64_t{0xF0}, ~uint64_t{0});
    const auto may_go = [pinned](uint32_t record) { return (pinned >> record & 1) == 0; };
    bool any = false;
    for (const uint32_t record : members_) any = any || may_go(record);
    const uint32_t victim = policy_->Victim(now_ms_, may_go);
    RC_ASSERT((victim != 0) == any);
    if (victim == 0) return;
    RC_ASSERT(members_.contains(victim));
    RC_ASSERT(may_go(victim));
    // It stays a member until it is removed, which may come to nothing.
    if (*rc::gen::inRange(0, 4) != 0) Remove(victim, /*evicted=*/true);
  }
  // Enough uses for the learned index to learn from, if there are some members.
  void BusyTime() {
    for (int round = 0; round < 60; ++round) {
      now_ms_ += 1'000;
      for (const uint32_t record : members_) {
        ++request_;
        Use use{.now_ms = now_ms_, .request = request_, .ends_request = record % 2 == 0};
        CountUse(nodes_[record], &use);
        policy_->Touch(record, use);
      }
    }
  }

  std::array<PolicyNode, kRecords + 1> nodes_ = {};
  std::array<uint64_t, kRecords + 1> hashes_ = {};
  std::unique_ptr<Policy> policy_;
  std::set<uint32_t> members_;
  uint64_t now_ms_ = 1'000'000;
  uint64_t request_ = 1;
};

class PolicyProperty : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, PolicyProperty,
                         ::testing::Values("auto", "lru", "fifo", "lfu", "s3fifo", "arc"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PolicyProperty, KeepsItsMembersExactly) {
  const std::string policy = GetParam();
  EXPECT_TRUE(rc::check(policy, [&policy] {
    PolicyModel model(policy);
    const auto steps = *rc::gen::inRange(1, 200);
    for (int step = 0; step < steps; ++step) {
      model.Step();
      model.Check();
    }
    model.Finish();
  }));
}

}  // namespace
}  // namespace infercache::store

// The pin protocol alone: readers that use the real reader header against the smallest evictor that
// follows (or breaks) the daemon's half, over the same records and slots, as fast as both can go.
//
// Each payload word of a record says which generation it belongs to. A reader that holds a pin on
// generation g and reads anything else has got bytes of another object: a wrong read. The protocol
// must produce none; each of its three halves, taken away, must produce some, or this test is
// blind:
//   the slot store is relaxed     on x86 it waits in the store buffer while the second look at the
//                                 generation is done already, and the evictor's scan misses the pin
//   no second look                the evictor may have scanned between the first look and the slot
//   reuse before the scan         the evictor does not ask

#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/shm/reader.h"
#include "tests/build_kind.h"
#include "tests/store/pattern.h"

namespace infercache::shm {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr Seconds kCatchWithin{30};
constexpr Seconds kProtocolRunsAtLeast{2};

struct RelaxedSlotStore : PinProtocol {
  static constexpr std::memory_order kSlotStore = std::memory_order_relaxed;
};
struct NoRecheck : PinProtocol {
  static constexpr bool kRecheck = false;
};
enum class Evictor { kScansBeforeReuse, kReusesBeforeScan };

// What a run saw.
struct Outcome {
  uint64_t wrong_reads = 0;
  uint64_t pins = 0;
  uint64_t reuses = 0;
  uint64_t spared = 0;  // times that the scan found a pin
  Seconds took{0};
};

// Two records are enough to keep a reader busy while the other one is in limbo; more would make the
// interesting meetings rarer.
template <class Protocol, Evictor kEvictor>
class Litmus {
 public:
  Litmus() {
    for (Cell& cell : cells_) {
      cell.record.generation.store(2);
      for (auto& word : cell.payload) word.store(2);
    }
  }

  // Until a wrong read happens or the time is up.
  Outcome Run(Seconds limit) {
    const Clock::time_point start = Clock::now();
    std::thread evictor([this] { Evict(); });
    std::thread reader([this] { Read(); });
    while (Clock::now() - start < limit && wrong_reads_.load() == 0) std::this_thread::yield();
    const Seconds took = Clock::now() - start;
    stop_.store(true);
    reader.join();
    evictor.join();
    return {wrong_reads_.load(), pins_, reuses_, spared_, took};
  }

 private:
  static constexpr uint32_t kRecords = 2;
  static constexpr size_t kPayloadWords = 8;
  // Stores of the reader to memory that is not in its cache: what comes later, the slot store above
  // all, waits behind them, as it would in a client that has just written something else.
  static constexpr size_t kClutterWords = size_t{1} << 20;
  static constexpr int kClutterStores = 6;

  struct alignas(128) Cell {
    Record record{};
    alignas(128) std::array<std::atomic<uint64_t>, kPayloadWords> payload;
  };

  void Evict() {
    std::array<bool, kRecords> in_limbo{};
    while (!stop_.load(std::memory_order_relaxed)) {
      for (uint32_t i = 0; i < kRecords; ++i) {
        Record& record = cells_[i].record;
        const uint64_t generation = record.generation.load(std::memory_order_relaxed);
        const uint64_t visible = in_limbo[i] ? generation - 1 : generation;
        if (!in_limbo[i]) record.generation.store(generation + 1, std::memory_order_seq_cst);
        if (kEvictor == Evictor::kScansBeforeReuse &&
            slot_.value.load(std::memory_order_seq_cst) == MakePin(i + 1, visible)) {
          in_limbo[i] = true;
          ++spared_;
          continue;
        }
        in_limbo[i] = false;
        for (auto& word : cells_[i].payload) word.store(visible + 2, std::memory_order_relaxed);
        record.generation.store(visible + 2, std::memory_order_release);
        ++reuses_;
      }
    }
  }

  void Read() {
    uint64_t random = 1;
    for (uint64_t round = 0; !stop_.load(std::memory_order_relaxed); ++round) {
      for (int i = 0; i < kClutterStores; ++i) {
        random = infercache::testing::Mix(random);
        clutter_[random % kClutterWords].store(round, std::memory_order_relaxed);
      }
      const uint32_t number = 1 + static_cast<uint32_t>(round % kRecords);
      Cell& cell = cells_[number - 1];
      if (!TryPin<Protocol>(cell.record, number, slot_.value)) continue;
      ++pins_;
      const auto pinned = static_cast<uint32_t>(slot_.value.load(std::memory_order_relaxed));
      bool wrong = false;
      for (int look = 0; look < 16; ++look) {  // long enough for a wrong evictor to act
        for (const auto& word : cell.payload) {
          wrong |= static_cast<uint32_t>(word.load(std::memory_order_relaxed)) != pinned;
        }
      }
      Unpin(slot_.value);
      if (wrong) wrong_reads_.fetch_add(1);
    }
  }

  std::array<Cell, kRecords> cells_;
  struct alignas(128) {
    PinSlot value{0};
  } slot_;
  const std::unique_ptr<std::atomic<uint64_t>[]> clutter_ =
      std::make_unique<std::atomic<uint64_t>[]>(kClutterWords);
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> wrong_reads_{0};
  uint64_t pins_ = 0;    // the reader's, until it is joined
  uint64_t reuses_ = 0;  // the evictor's
  uint64_t spared_ = 0;
};

template <class Protocol, Evictor kEvictor>
Outcome RunFor(Seconds limit) {
  const auto litmus = std::make_unique<Litmus<Protocol, kEvictor>>();
  return litmus->Run(limit);
}

struct Mutant {
  const char* name;
  std::function<Outcome(Seconds)> run;
};

const Mutant kMutants[] = {
    {"slot store relaxed", RunFor<RelaxedSlotStore, Evictor::kScansBeforeReuse>},
    {"re-check dropped", RunFor<NoRecheck, Evictor::kScansBeforeReuse>},
    {"record reused before the scan", RunFor<PinProtocol, Evictor::kReusesBeforeScan>},
};

// Empty if mutants can be caught here.
std::string WhyNotHere() {
  if (kThreadSanitizer) {
    return "ThreadSanitizer serializes what this test must see out of order";
  }
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < 2) {
    return "needs two CPUs: on one, reader and evictor never run at the same time";
  }
  return "";
}

std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  return out << o.wrong_reads << " wrong reads, " << o.pins << " pins, " << o.reuses << " reuses, "
             << o.spared << " spared in " << o.took.count() << " s";
}

class PinLitmusMutant : public ::testing::TestWithParam<Mutant> {};

TEST_P(PinLitmusMutant, IsCaught) {
  if (const std::string why = WhyNotHere(); !why.empty()) GTEST_SKIP() << why;
  const Outcome outcome = GetParam().run(kCatchWithin);
  std::cout << "  " << GetParam().name << ": " << outcome << std::endl;
  EXPECT_GT(outcome.wrong_reads, 0u) << GetParam().name << " was not noticed: " << outcome;
}

INSTANTIATE_TEST_SUITE_P(Protocol, PinLitmusMutant, ::testing::ValuesIn(kMutants),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

// Under the same harness, for five times as long as the slowest mutant survives.
TEST(PinLitmus, ProtocolHolds) {
  Seconds slowest{0};
  if (WhyNotHere().empty()) {
    for (const Mutant& mutant : kMutants)
      slowest = std::max(slowest, mutant.run(kCatchWithin).took);
  }
  const Seconds limit = std::max(5 * slowest, kProtocolRunsAtLeast);
  const Outcome outcome = RunFor<PinProtocol, Evictor::kScansBeforeReuse>(limit);
  std::cout << "  protocol: " << outcome << std::endl;
  EXPECT_EQ(outcome.wrong_reads, 0u) << outcome;
  EXPECT_GT(outcome.pins, 1'000u) << "the reader hardly got a pin: this run proves nothing";
  EXPECT_GT(outcome.reuses, 1'000u);
  EXPECT_GT(outcome.spared, 0u) << "the evictor never met a pin: this run proves nothing";
}

}  // namespace
}  // namespace infercache::shm

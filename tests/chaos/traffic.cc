#include "tests/chaos/traffic.h"

#include <algorithm>
#include <utility>

#include "tests/store/pattern.h"

namespace infercache::chaos {
namespace {

using infercache::testing::FillTagged;
using infercache::testing::kTaggedHeaderBytes;
using infercache::testing::MatchesTagged;
using infercache::testing::Mix;
using std::chrono::steady_clock;

constexpr uint64_t kKeys = 16;

}  // namespace

Traffic::Traffic(local::Worker worker, const Clock& clock, std::string keys)
    : worker_(std::move(worker)), clock_(clock), keys_(std::move(keys)) {
  thread_ = std::thread([this] { Run(); });
}

Traffic::~Traffic() { Stop(); }

void Traffic::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

bool Traffic::AwaitRounds(uint64_t more) {
  const uint64_t until = rounds_ + more;
  return local::Eventually([this, until] { return rounds_ >= until; });
}

void Traffic::Run() {
  for (uint64_t round = 0; !stop_; ++round) {
    const auto start = steady_clock::now();
    Round(round);
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start).count();
    slowest_ms_ = std::max<int64_t>(slowest_ms_, took);
    ++rounds_;
  }
}

void Traffic::Round(uint64_t round) {
  const uint64_t tag = round % kKeys;
  const std::string key = keys_ + std::to_string(tag);
  const uint64_t size = kTaggedHeaderBytes + Mix(round) % 8000;
  const v1::ReservedItem place = worker_.Reserve(key, size, /*overwrite=*/true);
  if (place.reservation() == 0) {
    ++refused_;
  } else {
    FillTagged(worker_.raw().chunk(place.chunk()).subspan(place.offset(), size), tag, round);
    if (worker_.Commit(place.reservation()).outcome() != v1::LOCAL_PUT_STORED) ++refused_;
  }
  const uint64_t read_tag = Mix(round + 1) % kKeys;
  const auto got = worker_.Get(keys_ + std::to_string(read_tag), clock_.NowMs());
  if (got) ++hits_;
  if (got && !MatchesTagged(std::as_bytes(std::span(*got)), read_tag)) ++wrong_;
}

}  // namespace infercache::chaos

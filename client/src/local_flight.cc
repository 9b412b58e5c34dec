#include "client/src/local_flight.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "common/limits.h"
#include "common/mutex.h"

namespace infercache {
namespace {

using std::chrono::steady_clock;
using State = ClaimWord::State;

constexpr size_t kMaxKeyBytesPerRequest = kMaxFrameBytes / 2;

// Whoever hears of the keys. Called by several threads at once.
using Words = std::shared_ptr<Transport::OnWords>;

void MissAll(const Words& words, size_t first, size_t count, const absl::Status& status) {
  std::vector<ClaimWord> all(count);
  for (size_t i = 0; i < count; ++i) all[i] = {.index = first + i, .status = Unshared(status)};
  (*words)(std::move(all));
}

// One request: keys [first, first + count) of a batch.
class LocalFlight final : public FlightListener {
 public:
  LocalFlight(std::shared_ptr<SessionPins> pins, size_t first, std::vector<std::string> keys,
              Words words)
      : pins_(std::move(pins)),
        first_(first),
        keys_(std::move(keys)),
        words_(std::move(words)),
        heard_(keys_.size(), false) {}

  v1::LocalRequest MakeRequest(LocalDeadline deadline, absl::Duration claim_time) const {
    v1::LocalRequest request;
    v1::GetOrReserve& ask = *request.mutable_get_or_reserve();
    for (const std::string& key : keys_) ask.add_keys(key);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_clock::now());
    ask.set_wait_ms(std::clamp<int64_t>(left.count(), 0, kMaxWaitMs));
    ask.set_claim_ms(std::clamp<int64_t>(absl::ToInt64Milliseconds(claim_time), 1, kMaxClaimMs));
    return request;
  }

  void OnNews(LocalAnswer answer) override {
    std::vector<ClaimWord> words;
    if (!answer.status.ok()) {
      TakeFailure(answer.status, &words);
    } else if (answer.response.has_claim_answers()) {
      const v1::ClaimAnswers& answers = answer.response.claim_answers();
      for (int i = 0; i < answers.items_size(); ++i) Take(i, answers.items(i), &words);
    } else {
      for (const v1::ClaimEvent& event : answer.response.claim_events().events()) {
        Take(event.index(), event.answer(), &words);
      }
    }
    if (!words.empty()) (*words_)(std::move(words));
  }

 private:
  // Whether this is the first word about the key.
  bool First(size_t index) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return index < heard_.size() && !std::exchange(heard_[index], char{true});
  }

  void TakeFailure(const absl::Status& status, std::vector<ClaimWord>* words) {
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (First(i)) words->push_back({.index = first_ + i, .status = Unshared(status)});
    }
  }

  void Take(size_t index, const v1::ClaimAnswer& answer, std::vector<ClaimWord>* words) {
    if (answer.state() == v1::CLAIM_STATE_WAIT) return;
    // A claim that comes too late is given up with this.
    std::unique_ptr<LocalRight> right;
    if (answer.claim() != 0) right = std::make_unique<LocalRight>(pins_, answer.claim());
    if (!First(index)) return;
    ClaimWord& word = words->emplace_back(ClaimWord{.index = first_ + index});
    if (answer.state() == v1::CLAIM_STATE_HIT) {
      word.state = State::kVisible;
    } else if (answer.state() == v1::CLAIM_STATE_WIN && right != nullptr) {
      word.state = State::kWon;
      word.claim.emplace(keys_[index], std::move(right));
    } else if (answer.state() != v1::CLAIM_STATE_MISS) {
      word.status = BadAnswer("a key that is neither there nor missing");
    } else if (answer.code() != 0) {
      word.status = SaidByDaemon(answer.code(), answer.message());
    }
  }

  const std::shared_ptr<SessionPins> pins_;
  const size_t first_;
  const std::vector<std::string> keys_;
  const Words words_;

  Mutex mu_;
  std::vector<char> heard_ ABSL_GUARDED_BY(mu_);
};

void Ask(const std::shared_ptr<LocalSession>& session, std::vector<std::string> keys,
         LocalDeadline deadline, absl::Duration claim_time, const Words& words) {
  if (!session->single_flight()) {
    return MissAll(words, 0, keys.size(),
                   SaidByDaemon(static_cast<uint32_t>(absl::StatusCode::kUnimplemented),
                                "the daemon has no single flight"));
  }
  for (size_t first = 0; first < keys.size();) {
    size_t end = first, bytes = 0;
    while (end < keys.size() && end - first < kMaxItemsPerFrame) {
      bytes += keys[end].size();
      if (bytes > kMaxKeyBytesPerRequest) break;
      ++end;
    }
    auto flight = std::make_shared<LocalFlight>(
        session->pins(), first,
        std::vector<std::string>(std::move_iterator(keys.begin() + static_cast<ptrdiff_t>(first)),
                                 std::move_iterator(keys.begin() + static_cast<ptrdiff_t>(end))),
        words);
    v1::LocalRequest request = flight->MakeRequest(deadline, claim_time);
    session->connection().SubmitFlight(request, deadline, std::move(flight));
    first = end;
  }
}

}  // namespace

LocalRight::~LocalRight() {
  if (claim_ == 0 || pins_->inherited()) return;
  v1::LocalRequest request;
  request.mutable_give_up()->add_claims(claim_);
  pins_->connection().Tell(request);
}

void StartLocalFlight(LocalLink& link, std::span<const std::string_view> keys,
                      LocalDeadline deadline, absl::Duration claim_time,
                      Transport::OnWords on_words) {
  std::vector<std::string> owned(keys.begin(), keys.end());
  auto words = std::make_shared<Transport::OnWords>(std::move(on_words));
  link.WhenOpen(/*wait_for_daemon=*/false, deadline,
                [owned = std::move(owned), words = std::move(words), deadline,
                 claim_time](LocalLink::Opened opened) mutable {
                  if (opened.session == nullptr) {
                    return MissAll(words, 0, owned.size(), opened.status);
                  }
                  Ask(opened.session, std::move(owned), deadline, claim_time, words);
                });
}

}  // namespace infercache

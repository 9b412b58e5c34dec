#include "client/cli/replay.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/block_content.h"
#include "client/cli/keys.h"
#include "client/cli/parallel.h"
#include "common/status_macros.h"

namespace infercache::cli {
namespace {

// A call carries at most this, well below the limit of one message.
constexpr uint64_t kMaxCallBytes = uint64_t{16} << 20;

double Ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

void Merge(ReplayResult& into, const ReplayResult& from) {
  constexpr uint64_t ReplayResult::*kCounters[] = {
      &ReplayResult::requests,        &ReplayResult::blocks,         &ReplayResult::prefix_blocks,
      &ReplayResult::present_blocks,  &ReplayResult::lost_blocks,    &ReplayResult::stored_blocks,
      &ReplayResult::existing_blocks, &ReplayResult::refused_blocks, &ReplayResult::bytes_get,
      &ReplayResult::bytes_put,       &ReplayResult::wrong_blocks,   &ReplayResult::wrong_bytes};
  for (const auto counter : kCounters) into.*counter += from.*counter;
  into.match.Merge(from.match);
  into.get.Merge(from.get);
  into.put.Merge(from.put);
}

// One client and what it measured. Used by one thread.
class Worker {
 public:
  Worker(std::unique_ptr<Client> client, uint64_t block_bytes)
      : client_(std::move(client)),
        block_bytes_(block_bytes),
        blocks_per_call_(std::max<uint64_t>(1, kMaxCallBytes / block_bytes)) {}

  absl::Status Run(const TraceRequest& request);
  const ReplayResult& result() const { return result_; }

 private:
  // Gets and checks keys [begin, end). Returns the first that it did not get, else `end`.
  absl::StatusOr<size_t> GetBlocks(size_t begin, size_t end);
  absl::Status PutBlocks(size_t begin, size_t end);
  void Check(uint64_t id, std::span<const std::byte> bytes);

  std::unique_ptr<Client> client_;
  const uint64_t block_bytes_;
  const size_t blocks_per_call_;
  ReplayResult result_;

  // Of the request under way; members so that their memory is reused.
  std::span<const uint64_t> ids_;
  std::vector<std::string> keys_;
  std::vector<std::string_view> views_;
  std::vector<std::byte> values_;
};

absl::Status Worker::Run(const TraceRequest& request) {
  ids_ = request.ids;
  keys_.clear();
  for (const uint64_t id : ids_) keys_.push_back(absl::StrCat("block/", id));
  views_ = Views(keys_);
  result_.blocks += ids_.size();
  ++result_.requests;
  if (ids_.empty()) return absl::OkStatus();

  const uint64_t start_ns = NowNs();
  const MatchResult match = client_->Match(views_);
  RETURN_IF_ERROR(match.status);
  result_.match.Add(NowNs() - start_ns);
  result_.prefix_blocks += match.prefix_length;
  result_.present_blocks +=
      static_cast<uint64_t>(std::count(match.present.begin(), match.present.end(), true));

  // The calls of a long prefix go from its tail to its head: the head, which other chains share,
  // ends as the most recently used.
  size_t missing = match.prefix_length;
  for (size_t end = match.prefix_length; end > 0;) {
    const size_t begin = end - std::min(end, blocks_per_call_);
    ASSIGN_OR_RETURN(const size_t first_missing, GetBlocks(begin, end));
    if (first_missing < end) missing = first_missing;
    end = begin;
  }
  for (size_t begin = missing; begin < ids_.size();) {
    const size_t end = std::min(begin + blocks_per_call_, ids_.size());
    RETURN_IF_ERROR(PutBlocks(begin, end));
    begin = end;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Worker::GetBlocks(size_t begin, size_t end) {
  const auto keys = std::span(views_).subspan(begin, end - begin);
  const uint64_t start_ns = NowNs();
  const std::vector<GetResult> results = client_->Get(keys);
  result_.get.Add(NowNs() - start_ns);
  size_t first_missing = end;
  for (size_t i = results.size(); i-- > 0;) {
    const absl::Status& status = results[i].status;
    if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
    if (results[i].hit()) {
      Check(ids_[begin + i], results[i].object->bytes());
    } else {
      ++result_.lost_blocks;
      first_missing = begin + i;
    }
  }
  return first_missing;
}

void Worker::Check(uint64_t id, std::span<const std::byte> bytes) {
  result_.bytes_get += bytes.size();
  uint64_t wrong = CountWrongBytes(id, bytes.first(std::min<size_t>(bytes.size(), block_bytes_)));
  wrong += bytes.size() > block_bytes_ ? bytes.size() - block_bytes_ : block_bytes_ - bytes.size();
  result_.wrong_bytes += wrong;
  result_.wrong_blocks += wrong != 0;
}

absl::Status Worker::PutBlocks(size_t begin, size_t end) {
  values_.resize((end - begin) * block_bytes_);
  std::vector<PutItem> items(end - begin);
  for (size_t i = 0; i < items.size(); ++i) {
    const auto value = std::span(values_).subspan(i * block_bytes_, block_bytes_);
    FillBlock(ids_[begin + i], value);
    items[i].key = views_[begin + i];
    items[i].info.kind = ObjectKind::kKv;
    if (begin + i > 0) items[i].info.parent_key = keys_[begin + i - 1];
    items[i].value = {value};
  }
  const uint64_t start_ns = NowNs();
  const std::vector<PutResult> results = client_->Put(items);
  result_.put.Add(NowNs() - start_ns);
  for (const auto& result : results) {
    switch (result.outcome) {
      case PutOutcome::kStored:
        ++result_.stored_blocks;
        result_.bytes_put += block_bytes_;
        break;
      case PutOutcome::kExists:
        ++result_.existing_blocks;
        break;
      case PutOutcome::kRefused:
        if (!absl::IsResourceExhausted(result.status)) return result.status;
        ++result_.refused_blocks;
        break;
    }
  }
  return absl::OkStatus();
}

}  // namespace

double ReplayResult::PrefixHitRatio() const { return Ratio(prefix_blocks, blocks); }
double ReplayResult::ObjectHitRatio() const { return Ratio(present_blocks, blocks); }

absl::StatusOr<ReplayResult> Replay(const Trace& trace, const ReplayOptions& options,
                                    const ClientOptions& client_options,
                                    const std::function<bool(uint64_t)>& watch) {
  ReplayResult result;
  std::vector<Worker> workers;
  for (int i = 0; i < options.clients; ++i) {
    ASSIGN_OR_RETURN(auto client, Client::Connect(client_options));
    result.lane = client->lane();
    workers.emplace_back(std::move(client), options.block_bytes);
  }
  std::vector<absl::Status> statuses(workers.size());
  std::atomic<size_t> next{0}, done{0};
  std::atomic<bool> stop{false};

  const uint64_t start_ns = NowNs();
  RunThreads(
      options.clients,
      [&](int i) {
        const auto requests = trace.requests();
        while (!stop.load(std::memory_order_relaxed)) {
          const size_t request = next.fetch_add(1, std::memory_order_relaxed);
          if (request >= requests.size()) break;
          if (options.tell_time) statuses[i] = options.tell_time(requests[request].timestamp_ms);
          if (statuses[i].ok()) statuses[i] = workers[i].Run(requests[request]);
          if (!statuses[i].ok()) stop.store(true, std::memory_order_relaxed);
          done.fetch_add(1, std::memory_order_relaxed);
        }
      },
      [&] {
        if (!watch(done.load(std::memory_order_relaxed))) {
          stop.store(true, std::memory_order_relaxed);
        }
      });
  result.seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
  for (const auto& status : statuses) RETURN_IF_ERROR(status);
  for (const auto& worker : workers) Merge(result, worker.result());
  return result;
}

}  // namespace infercache::cli

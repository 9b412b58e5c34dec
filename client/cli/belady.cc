#include "client/cli/belady.h"

#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace infercache::cli {
namespace {

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

// For each block of each request, in order, the number of the next request that has it.
std::vector<uint64_t> NextUses(std::span<const TraceRequest> requests) {
  size_t blocks = 0;
  for (const TraceRequest& request : requests) blocks += request.ids.size();
  std::vector<uint64_t> next(blocks);
  absl::flat_hash_map<uint64_t, uint64_t> user;
  for (size_t r = requests.size(); r-- > 0;) {
    const std::vector<uint64_t>& ids = requests[r].ids;
    blocks -= ids.size();
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto found = user.find(ids[i]);
      next[blocks + i] = found == user.end() ? kNever : found->second;
    }
    for (const uint64_t id : ids) user[id] = r;
  }
  return next;
}

class Optimum {
 public:
  explicit Optimum(uint64_t capacity) : capacity_(capacity) {}

  bool Has(uint64_t id) const { return present_.contains(id); }
  void Use(uint64_t id, uint64_t next_use, uint64_t depth) {
    if (next_use == kNever) {
      present_.erase(id);
      return;
    }
    const Due due{next_use, depth};
    present_[id] = due;
    latest_.emplace(due, id);
    while (present_.size() > capacity_) {
      const auto [when, victim] = latest_.top();
      latest_.pop();
      // Others are entries of uses that have passed.
      if (const auto it = present_.find(victim); it != present_.end() && it->second == when) {
        present_.erase(it);
      }
    }
  }

 private:
  using Due = std::pair<uint64_t, uint64_t>;  // the next use, and how deep in its request

  const uint64_t capacity_;
  absl::flat_hash_map<uint64_t, Due> present_;
  std::priority_queue<std::pair<Due, uint64_t>> latest_;
};

}  // namespace

OptimalHits BeladyHits(std::span<const TraceRequest> requests, uint64_t capacity) {
  const std::vector<uint64_t> next = NextUses(requests);
  Optimum cache(capacity);
  OptimalHits hits;
  size_t first = 0;
  for (const TraceRequest& request : requests) {
    bool in_prefix = true;
    for (const uint64_t id : request.ids) {
      const bool present = cache.Has(id);
      in_prefix = in_prefix && present;
      hits.prefix_blocks += in_prefix ? 1 : 0;
      hits.present_blocks += present ? 1 : 0;
    }
    for (size_t i = request.ids.size(); i-- > 0;) cache.Use(request.ids[i], next[first + i], i);
    first += request.ids.size();
  }
  return hits;
}

}  // namespace infercache::cli

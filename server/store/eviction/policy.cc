#include "server/store/eviction/policy.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "server/store/eviction/arc.h"
#include "server/store/eviction/fifo.h"
#include "server/store/eviction/learned.h"
#include "server/store/eviction/lfu.h"
#include "server/store/eviction/lru.h"
#include "server/store/eviction/s3fifo.h"

namespace infercache::store {
namespace {

template <class P>
std::unique_ptr<Policy> Make(PolicyNode* nodes) {
  return std::make_unique<P>(nodes);
}

struct Kind {
  std::string_view name;
  std::unique_ptr<Policy> (*make)(PolicyNode* nodes);
};

constexpr std::array<Kind, 6> kKinds = {{{"auto", Make<LearnedPolicy>},
                                         {"lru", Make<LruPolicy>},
                                         {"fifo", Make<FifoPolicy>},
                                         {"lfu", Make<LfuPolicy>},
                                         {"s3fifo", Make<S3FifoPolicy>},
                                         {"arc", Make<ArcPolicy>}}};

const Kind* Find(std::string_view name) {
  for (const Kind& kind : kKinds) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

}  // namespace

std::string PolicyNames() {
  std::string names;
  for (const Kind& kind : kKinds) {
    absl::StrAppend(&names, names.empty() ? "" : ", ",
                    absl::string_view(kind.name.data(), kind.name.size()));
  }
  return names;
}

absl::Status CheckPolicyName(std::string_view name) {
  if (Find(name) != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unknown policy '", std::string(name), "'; there are ", PolicyNames()));
}

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name, PolicyNode* nodes) {
  const Kind* kind = Find(name);
  if (kind == nullptr) return CheckPolicyName(name);
  return kind->make(nodes);
}

}  // namespace infercache::store

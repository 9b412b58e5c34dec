#include "server/store/store.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/fingerprint.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

constexpr uint64_t kMinObjects = 1024;
constexpr uint64_t kBytesPerObjectByDefault = 4096;

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name.size() > kMaxNamespaceNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a namespace's name has 1 to ", kMaxNamespaceNameBytes, " characters, not ", name.size()));
  }
  for (const char c : name) {
    const bool fine =
        (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!fine) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace name '", name, "' has a character other than a-z 0-9 . _ -"));
    }
  }
  return absl::OkStatus();
}

absl::Status NoNamespace(std::string_view name) {
  return absl::NotFoundError(absl::StrCat(
      "there is no namespace '", std::string(name.substr(0, kMaxNamespaceNameBytes)), "'"));
}

uint64_t DefaultMaxObjects(uint64_t quota_bytes) {
  return std::min(std::max(kMinObjects, quota_bytes / kBytesPerObjectByDefault),
                  kMaxObjectsPerNamespace);
}

// Checks every field and fills in the defaults.
absl::Status Complete(const StoreOptions& options, NamespaceSpec* spec, PageKind* pages) {
  RETURN_IF_ERROR(CheckName(spec->name));
  if (spec->quota_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("namespace ", spec->name, ": the quota is 0"));
  }
  if (spec->quota_bytes > kMaxObjectBytes * 16) {
    return absl::InvalidArgumentError(absl::StrCat("namespace ", spec->name, ": quota of ",
                                                   spec->quota_bytes, " bytes; the limit is ",
                                                   kMaxObjectBytes * 16));
  }
  // A client with a writable descriptor can punch holes into a chunk. In ordinary memory the next
  // touch gets a fresh page; a huge page may be taken by then, which is a SIGBUS for the daemon. An
  // operator who trusts the writers can ask for them.
  *pages = ChoosePages(options.arena_pages, spec->quota_bytes,
                       /*hugetlb=*/!spec->writable_by_clients);
  const ArenaGeometry arena = PlanArena(spec->quota_bytes, options.chunk_bytes, *pages);
  if (const absl::Status chunks = CheckChunkCount(arena); !chunks.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace ", spec->name, ": quota: ", chunks.message()));
  }
  spec->quota_bytes = arena.total_bytes();  // what is claimed is what is mapped
  if (spec->max_objects == 0) {
    spec->max_objects = DefaultMaxObjects(spec->quota_bytes);
  }
  if (spec->max_objects > kMaxObjectsPerNamespace) {
    return absl::InvalidArgumentError(absl::StrCat("namespace ", spec->name, ": max_objects of ",
                                                   spec->max_objects, "; the limit is ",
                                                   kMaxObjectsPerNamespace));
  }
  if (spec->policy.empty()) spec->policy = std::string(kDefaultPolicy);
  if (const absl::Status policy = CheckPolicyName(spec->policy); !policy.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace ", spec->name, ": ", policy.message()));
  }
  return Fingerprint::Make(spec->required_fingerprint).status();
}

}  // namespace

// What a namespace is made of besides its spec, which is complete.
struct Store::Parts {
  ArenaGeometry arena;
  std::unique_ptr<Chunks> chunks;
  PageKind pages = PageKind::k4k;
  std::shared_ptr<void> claim = nullptr;  // goes when the namespace does
  // Of a tier, see Namespace::Impl::Environment.
  std::optional<uint64_t> hash_seed = std::nullopt;
  std::optional<uint64_t> expiry_epoch_ms = std::nullopt;
  std::weak_ptr<Namespace> lower = {};
  std::function<bool()> low_room = {};
};

// Does the upkeep of all namespaces, soon after it is woken and else ten times a second.
class Store::MaintenanceThread {
 public:
  explicit MaintenanceThread(Store* store) : store_(store), thread_([this] { Run(); }) {}
  // Returns when the thread is gone. A namespace that is just waking it may outlive that moment.
  void Stop() {
    {
      MutexLock lock(&mu_);
      stop_ = true;
    }
    wake_.Signal();
    thread_.join();
  }
  void Wake() {
    if (woken_.exchange(true, std::memory_order_relaxed)) return;  // cheap for puts while it works
    MutexLock lock(&mu_);  // or the signal could fall between the thread's look and its wait
    wake_.Signal();
  }

 private:
  void Run() {
    bool more = false;
    while (true) {
      {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
        MutexLock lock(&mu_);
        while (!more && !stop_ && !woken_.load(std::memory_order_relaxed)) {
          if (!wake_.WaitUntil(&mu_, deadline)) break;
        }
        if (stop_) return;
        woken_.store(false, std::memory_order_relaxed);
      }
      more = false;
      if (store_->options_.on_upkeep) store_->options_.on_upkeep();
      for (const auto& ns : store_->Namespaces()) more |= ns->Maintain();
    }
  }

  Store* const store_;
  Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::atomic<bool> woken_{false};
  CondVar wake_;
  std::thread thread_;
};

Store::Store(const StoreOptions& options, const Clock& clock, Observer* observer)
    : options_(options),
      clock_(clock),
      observer_(observer),
      committed_bytes_(std::make_shared<std::atomic<uint64_t>>(0)) {
  if (options_.background) maintenance_ = std::make_shared<MaintenanceThread>(this);
}

Store::~Store() {
  if (maintenance_ != nullptr) maintenance_->Stop();
}

absl::StatusOr<std::shared_ptr<Namespace>> Store::CreateNamespace(NamespaceSpec spec) {
  PageKind pages = PageKind::k4k;
  // What was asked for counts against the capacity: whole pages may be a little more, which nobody
  // who divides a capacity among namespaces reckons with.
  const uint64_t asked_bytes = spec.quota_bytes;
  RETURN_IF_ERROR(Complete(options_, &spec, &pages));
  const std::string name = spec.name;
  // The name and the bytes are claimed first, the slow mapping happens without the lock.
  std::shared_ptr<void> claim;
  {
    MutexLock lock(&mu_);
    if (namespaces_.contains(name)) {
      return absl::AlreadyExistsError(absl::StrCat("namespace ", name, " exists"));
    }
    if (namespaces_.size() >= kMaxNamespaces) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", kMaxNamespaces, " namespaces"));
    }
    const uint64_t committed = committed_bytes_->load();
    if (asked_bytes > options_.capacity_bytes - std::min(committed, options_.capacity_bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("namespace ", name, ": quota of ", asked_bytes, " bytes, but ", committed,
                       " of the capacity of ", options_.capacity_bytes, " are spoken for"));
    }
    committed_bytes_->fetch_add(asked_bytes);
    claim = std::shared_ptr<void>(nullptr, [counter = committed_bytes_, bytes = asked_bytes](
                                               void*) { counter->fetch_sub(bytes); });
    namespaces_[name] = nullptr;  // being made
  }
  const auto make = [&](PageKind made_of) -> absl::StatusOr<std::shared_ptr<Namespace>> {
    const ArenaGeometry arena = PlanArena(spec.quota_bytes, options_.chunk_bytes, pages);
    ASSIGN_OR_RETURN(std::unique_ptr<Chunks> chunks,
                     MakeHostChunks(name, arena.chunk_count, arena.chunk_bytes,
                                    {.pages = made_of,
                                     .locked = options_.lock_memory,
                                     .writable_by_clients = spec.writable_by_clients,
                                     .populating = options_.populating}));
    return Make(spec,
                {.arena = arena, .chunks = std::move(chunks), .pages = made_of, .claim = claim});
  };
  auto made = make(pages);
  if (!made.ok() && pages == PageKind::kHugetlb && options_.arena_pages == PageChoice::kAuto) {
    // Nobody asked for them: a limit of the cgroup, or somebody else, kept them from us.
    made = make(PageKind::k4k);
  }
  MutexLock lock(&mu_);
  if (!made.ok()) {
    namespaces_.erase(name);
    return made.status();
  }
  namespaces_[name] = *made;
  return made;
}

absl::StatusOr<std::shared_ptr<Namespace>> Store::Make(const NamespaceSpec& spec,
                                                       Parts parts) const {
  Namespace::Impl::Environment environment{.clock = clock_,
                                           .observer = observer_,
                                           .wake_maintenance = {},
                                           .shards = options_.shards,
                                           .assumed_object_bytes = options_.assumed_object_bytes,
                                           .arena = parts.arena,
                                           .pages = parts.pages,
                                           .hash_seed = parts.hash_seed,
                                           .expiry_epoch_ms = parts.expiry_epoch_ms,
                                           .lower = std::move(parts.lower),
                                           .low_room = std::move(parts.low_room)};
  if (maintenance_ != nullptr) {
    environment.wake_maintenance = [weak = std::weak_ptr<MaintenanceThread>(maintenance_)] {
      if (const auto maintenance = weak.lock()) maintenance->Wake();
    };
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Namespace::Impl> impl,
                   Namespace::Impl::Create(spec, std::move(environment), std::move(parts.chunks)));
  impl->quota_claim = std::move(parts.claim);
  return std::shared_ptr<Namespace>(new Namespace(std::move(impl)));
}

absl::Status Store::AddDeviceTier(Namespace& ns, const std::string& device,
                                  const ArenaGeometry& arena, std::unique_ptr<Chunks> chunks,
                                  std::function<bool()> low_room) {
  RETURN_IF_ERROR(CheckChunkCount(arena));
  NamespaceSpec spec = ns.spec();
  spec.name = absl::StrCat(spec.name, "@", device);
  spec.device = device;
  spec.quota_bytes = arena.total_bytes();
  spec.max_objects = DefaultMaxObjects(spec.quota_bytes);
  spec.policy = ns.policy();
  // Neither can the daemon read the bytes, nor keep a writer's descriptor from writing.
  spec.checksums = false;
  spec.writable_by_clients = true;
  Parts parts = {.arena = arena, .chunks = std::move(chunks)};
  parts.hash_seed = ns.impl_->index().header().hash_seed;
  parts.expiry_epoch_ms = ns.impl_->index().header().expiry_epoch_ms;
  if (low_room) {
    parts.lower = ns.weak_from_this();
    parts.low_room = std::move(low_room);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<Namespace> tier, Make(spec, std::move(parts)));
  ns.SetDeviceTier({.device = device,
                    .bytes = spec.quota_bytes,
                    .objects = std::move(tier),
                    .why_off = absl::OkStatus()});
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Namespace>> Store::FindNamespace(std::string_view name) const {
  MutexLock lock(&mu_);
  const auto it = namespaces_.find(name);
  if (it == namespaces_.end() || it->second == nullptr) {
    return NoNamespace(name);
  }
  return it->second;
}

absl::Status Store::DeleteNamespace(std::string_view name) {
  std::shared_ptr<Namespace> gone;
  {
    MutexLock lock(&mu_);
    const auto it = namespaces_.find(name);
    if (it == namespaces_.end() || it->second == nullptr) {
      return NoNamespace(name);
    }
    gone = std::move(it->second);
    namespaces_.erase(it);
  }
  gone->Close();
  return absl::OkStatus();
}

std::vector<std::shared_ptr<Namespace>> Store::Namespaces() const {
  std::vector<std::shared_ptr<Namespace>> all;
  MutexLock lock(&mu_);
  for (const auto& [name, ns] : namespaces_) {
    if (ns != nullptr) all.push_back(ns);
  }
  return all;
}

uint64_t Store::committed_bytes() const { return committed_bytes_->load(); }

void Store::Maintain() {
  for (const auto& ns : Namespaces()) ns->Maintain();
}

}  // namespace infercache::store

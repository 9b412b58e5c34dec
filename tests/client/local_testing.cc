#include "tests/client/local_testing.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/or_die.h"

namespace infercache {

std::string NewSocketPath() {
  static std::atomic<int> count{0};
  return absl::StrCat(testing::TempDir(), "/infercache-local-", getpid(), "-", ++count, ".sock");
}

LocalDaemon::LocalDaemon(LocalSetup setup) : setup_(std::move(setup)) {
  if (setup_.options.socket_path.empty()) setup_.options.socket_path = NewSocketPath();
  Start();
}

LocalDaemon::~LocalDaemon() { Stop(); }

void LocalDaemon::Start() {
  store::StoreOptions options;
  options.capacity_bytes = 2 * setup_.quota_bytes;
  options.chunk_bytes = setup_.chunk_bytes;
  options.shards = 4;
  options.arena_pages = PageChoice::k4k;
  store_ = std::make_unique<store::Store>(options, clock_);
  store::NamespaceSpec spec;
  spec.name = "default";
  spec.quota_bytes = setup_.quota_bytes;
  spec.checksums = setup_.checksums;
  spec.writable_by_clients = setup_.writable_by_clients;
  ns_ = OrDie(store_->CreateNamespace(spec));
  server_ = OrDie(local::LocalServer::Start(setup_.options, *store_));
}

void LocalDaemon::Stop() {
  if (server_ != nullptr) server_->Shutdown(absl::InfinitePast());
  server_ = nullptr;
  ns_ = nullptr;
  store_ = nullptr;
}

DaemonProcess::DaemonProcess(std::string path, Begins begins) : path_(std::move(path)) {
  int begin[2], ready[2];
  if (pipe2(begin, O_CLOEXEC) != 0 || pipe2(ready, O_CLOEXEC) != 0) std::abort();
  pid_ = fork();
  if (pid_ < 0) std::abort();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char byte;
    if (read(begin[0], &byte, 1) != 1) _exit(1);
    LocalSetup setup;
    setup.options.socket_path = path_;
    const LocalDaemon daemon(setup);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    while (true) pause();
  }
  close(begin[0]);
  close(ready[1]);
  begin_ = UniqueFd(begin[1]);
  ready_ = UniqueFd(ready[0]);
  if (begins == Begins::kAtOnce) Begin();
}

void DaemonProcess::Begin() {
  char byte;
  if (write(begin_.get(), "b", 1) != 1 || read(ready_.get(), &byte, 1) != 1) std::abort();
}

void DaemonProcess::Signal(int number) {
  kill(pid_, number);
  // Its threads stop one after the other.
  if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
}

void DaemonProcess::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

LocalClient::LocalClient(const std::string& path, std::string namespace_name)
    : transport_(OrDie(LocalTransport::Connect(
          {.path = path, .namespace_name = std::move(namespace_name), .fingerprint = {}}))) {}

GetResult LocalClient::Ask(std::string_view key, LocalTransport::Copies copies,
                           absl::Duration timeout) {
  GetResult result;
  if (transport_->TryGet(key, copies, &result)) return result;
  Reached reached;
  return std::move(
      transport_->GetNow(std::span(&key, 1), copies, absl::Now() + timeout, &reached).front());
}

GetResult LocalClient::Get(std::string_view key, absl::Duration timeout) {
  return Ask(key, LocalTransport::Copies::kAllowed, timeout);
}

GetResult LocalClient::View(std::string_view key, absl::Duration timeout) {
  return Ask(key, LocalTransport::Copies::kRefused, timeout);
}

GetIntoResult LocalClient::GetInto(std::string_view key, std::span<std::byte> destination,
                                   absl::Duration timeout) {
  GetIntoResult result;
  if (transport_->TryGetInto(key, destination, &result)) return result;
  Reached reached;
  return transport_
      ->GetIntoNow(std::span(&key, 1), std::span(&destination, 1), absl::Now() + timeout, &reached)
      .front();
}

PutResult LocalClient::Put(std::string_view key, std::string_view value, bool overwrite,
                           absl::Duration timeout) {
  const PutItem item = {
      .key = key, .info = {}, .parts = {}, .value = {Bytes(value)}, .overwrite = overwrite};
  Reached reached;
  return transport_->PutNow(std::span(&item, 1), absl::Now() + timeout, &reached).front();
}

std::vector<PutResult> LocalClient::PutAll(std::span<const std::string> keys,
                                           std::string_view value) {
  std::vector<PutItem> items;
  for (const std::string& key : keys) {
    items.push_back({.key = key, .info = {}, .parts = {}, .value = {Bytes(value)}});
  }
  Reached reached;
  return transport_->PutNow(items, absl::Now() + absl::Seconds(30), &reached);
}

ReserveResult LocalClient::Reserve(std::string_view key, uint64_t size_bytes) {
  const ReserveItem item = {.key = key, .size_bytes = size_bytes, .info = {}, .parts = {}};
  Reached reached;
  return std::move(
      transport_->ReserveNow(std::span(&item, 1), absl::Now() + absl::Seconds(30), &reached)
          .front());
}

PutResult LocalClient::Commit(Reservation reservation) {
  Reached reached;
  return transport_
      ->CommitNow(std::span(&reservation, 1), absl::Now() + absl::Seconds(30), &reached)
      .front();
}

MatchResult LocalClient::Match(std::span<const std::string_view> keys) {
  MatchResult result;
  if (transport_->TryMatch(keys, &result)) return result;
  Reached reached;
  return transport_->MatchNow(keys, absl::Now() + absl::Seconds(30), &reached);
}

absl::Status LocalClient::Ping(absl::Duration timeout) {
  Reached reached;
  return transport_->PingNow(absl::Now() + timeout, &reached);
}

std::string LocalClient::Read(std::string_view key) {
  const GetResult got = Get(key);
  if (!got.status.ok()) return std::string(got.status.ToString());
  return got.hit() ? Text(got.object->bytes()) : "(miss)";
}

bool LocalClient::Reaches() {
  return Eventually([this] { return Ping().ok(); });
}

}  // namespace infercache

// A daemon of the same-host lane, in this process or in one of its own, and a client of it with
// verbs in which tests read as stories. Links no gRPC.

#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "client/src/local_transport.h"
#include "common/clock.h"
#include "common/unique_fd.h"
#include "server/local/local_server.h"
#include "server/store/store.h"

namespace infercache {

inline constexpr size_t kMiB = size_t{1} << 20;

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}
inline std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Polls for what becomes true on another thread and has no event of its own.
template <typename Condition>
bool Eventually(Condition condition, absl::Duration within = absl::Seconds(30)) {
  for (const absl::Time end = absl::Now() + within; absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return condition();
}

// A path that no other test uses.
std::string NewSocketPath();

struct LocalSetup {
  uint64_t quota_bytes = uint64_t{64} << 20;
  uint64_t chunk_bytes = uint64_t{16} << 20;
  bool checksums = false;
  bool writable_by_clients = true;
  local::LocalOptions options = {};
};

// Store and server in this process. Stop and start it as often as you like: each start is a new
// daemon with an empty store.
class LocalDaemon {
 public:
  explicit LocalDaemon(LocalSetup setup = {});
  ~LocalDaemon();

  const std::string& path() const { return setup_.options.socket_path; }
  void Stop();
  void Start();
  void BeginDrain() { server_->BeginDrain(); }

  local::LocalStats stats() const { return server_->stats(); }
  store::Namespace& ns() const { return *ns_; }
  store::NamespaceStats namespace_stats() const { return ns_->Stats(); }
  store::Store& store() { return *store_; }

 private:
  LocalSetup setup_;
  MonotonicClock clock_;
  std::unique_ptr<store::Store> store_;
  std::shared_ptr<store::Namespace> ns_;
  std::unique_ptr<local::LocalServer> server_;
};

// The same in a process of its own, for signals. REQUIRES: this process has one thread when it is
// constructed.
class DaemonProcess {
 public:
  enum class Begins { kAtOnce, kWhenTold };
  explicit DaemonProcess(std::string path = NewSocketPath(), Begins begins = Begins::kAtOnce);
  ~DaemonProcess() { Kill(); }

  const std::string& path() const { return path_; }
  // Returns once it serves.
  void Begin();
  void Signal(int number);
  void Kill();

 private:
  const std::string path_;
  pid_t pid_ = -1;
  UniqueFd begin_, ready_;
};

class LocalClient {
 public:
  explicit LocalClient(const std::string& path, std::string namespace_name = "default");

  // As Client does it: without the daemon if that settles it, else with.
  GetResult Get(std::string_view key, absl::Duration timeout = absl::Seconds(30));
  GetResult View(std::string_view key, absl::Duration timeout = absl::Seconds(30));
  GetIntoResult GetInto(std::string_view key, std::span<std::byte> destination,
                        absl::Duration timeout = absl::Seconds(30));
  PutResult Put(std::string_view key, std::string_view value, bool overwrite = false,
                absl::Duration timeout = absl::Seconds(30));
  std::vector<PutResult> PutAll(std::span<const std::string> keys, std::string_view value);
  ReserveResult Reserve(std::string_view key, uint64_t size_bytes);
  PutResult Commit(Reservation reservation);
  MatchResult Match(std::span<const std::string_view> keys);
  absl::Status Ping(absl::Duration timeout = absl::Seconds(30));
  // The value, "(miss)", or the status.
  std::string Read(std::string_view key);
  // Whether the daemon answers by now; waits for it.
  bool Reaches();

  LocalTransport& transport() { return *transport_; }
  void Destroy() { transport_ = nullptr; }

 private:
  GetResult Ask(std::string_view key, LocalTransport::Copies copies, absl::Duration timeout);

  std::unique_ptr<LocalTransport> transport_;
};

}  // namespace infercache

// How soon the daemon has back what a killed worker held.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "bench/compare/spawn.h"
#include "common/unique_fd.h"

namespace infercache::bench {
namespace {

using std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

// Pins, claims and reservations, of each.
constexpr uint64_t kHeld = 1024;
constexpr double kMostMs = 100;

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) Die(absl::StrCat("pipe2: ", std::strerror(errno)));
    reader = UniqueFd(ends[0]);
    writer = UniqueFd(ends[1]);
  }
  UniqueFd reader, writer;
};

// infercache_held_worker, which holds what it should once the constructor is through.
class HeldWorker {
 public:
  HeldWorker(const Servers& servers, const std::string& name) {
    pid_ = Spawn({servers.held_worker_binary, servers.ours_unix, name, absl::StrCat(kHeld)},
                 input_.reader.get(), output_.writer.get());
    output_.writer.Reset();
    pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidfd_.valid()) Die(absl::StrCat("pidfd_open: ", std::strerror(errno)));
    char line[5];
    if (read(output_.reader.get(), line, sizeof line) != sizeof line ||
        std::string_view(line, sizeof line) != "held\n") {
      Die("a worker does not hold what it should");
    }
  }
  ~HeldWorker() { waitpid(pid_, nullptr, 0); }
  HeldWorker(const HeldWorker&) = delete;
  HeldWorker& operator=(const HeldWorker&) = delete;

  // Returns when the kernel has reported its death.
  steady_clock::time_point Kill() {
    kill(pid_, SIGKILL);
    pollfd item = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    while (poll(&item, 1, /*timeout=*/-1) <= 0) {
    }
    return steady_clock::now();
  }

 private:
  Pipe input_;  // it ends when this program does
  Pipe output_;
  pid_t pid_ = 0;
  UniqueFd pidfd_;
};

bool AllIsHeld(const v1::NamespaceStats& stats) {
  return stats.local_pins() == kHeld && stats.claims().claims() == kHeld &&
         stats.reservations() == kHeld && stats.limbo_bytes() > 0;
}

// Nothing else was stored: what is used was the worker's, in limbo or quarantine included.
bool NothingIsHeld(const v1::NamespaceStats& stats) {
  return stats.local_sessions() == 0 && stats.local_pins() == 0 && stats.pins() == 0 &&
         stats.claims().claims() == 0 && stats.reservations() == 0 && stats.used_bytes() == 0;
}

struct Took {
  double since_report_ms = 0;
  double since_kill_ms = 0;
};

Took KillOne(const Context& context, ProtobufClient& admin, const std::string& name) {
  HeldWorker worker(context.servers, name);
  if (!AllIsHeld(admin.Stats(name))) Die("the daemon does not see what a worker holds");
  const auto killed = steady_clock::now();
  const auto reported = worker.Kill();
  while (!NothingIsHeld(admin.Stats(name))) {
    if (steady_clock::now() - reported > std::chrono::seconds(60)) Die("a dead worker holds on");
  }
  const auto back = steady_clock::now();
  return {Milliseconds(back - reported).count(), Milliseconds(back - killed).count()};
}

Row WorstOf(const std::string& name, std::vector<double> times_ms) {
  std::sort(times_ms.begin(), times_ms.end());
  Row row;
  row.name = name;
  row.ours = times_ms.back();
  row.unit = "ms";
  row.note = absl::StrFormat("worst of %d kills, median %.2f ms", times_ms.size(),
                             times_ms[times_ms.size() / 2]);
  return row;
}

}  // namespace

void WorkerKilled(const Context& context) {
  const std::string name = "worker-killed";
  const int kills = context.plan.quick ? 2 : 25;
  ProtobufClient admin(context.servers.ours_unix);  // where its user may make namespaces
  admin.CreateNamespace(name, uint64_t{64} << 20);
  std::vector<double> since_report, since_kill;
  for (int i = 0; i < kills; ++i) {
    const Took took = KillOne(context, admin, name);
    since_report.push_back(took.since_report_ms);
    since_kill.push_back(took.since_kill_ms);
  }
  Row row = WorstOf("worker_killed", since_report);
  row.target = absl::StrCat("<= ", kMostMs);
  if (!context.plan.quick) row.ok = row.ours <= kMostMs;
  row.note += absl::StrCat(", since the kernel reported it; each held ", kHeld,
                           " pins of deleted objects, claims and reservations");
  context.rows.Print(row);
  row = WorstOf("worker_killed/since kill", since_kill);
  row.note += ", since kill() was called";
  context.rows.Print(row);
}

}  // namespace infercache::bench

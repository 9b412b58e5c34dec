// What the daemon itself spends while clients hit in shared memory.

#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "bench/compare/local_client.h"

namespace infercache::bench {
namespace {

// Seconds of CPU that a process has used.
double CpuSeconds(uint32_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = all.rfind(')');
  if (name_end == std::string::npos) Die("cannot read the daemon's CPU time");
  std::istringstream fields(all.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;  // state ... cmajflt
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

void DaemonWhileClientsHit(const Context& context) {
  constexpr size_t kClients = 2;
  constexpr size_t kObjects = 10'000;
  ProtobufClient admin(context.servers.ours);
  const uint32_t pid = admin.Pid();
  std::vector<std::string> keys;
  for (size_t i = 0; i < kObjects; ++i) keys.push_back(absl::StrCat("cpu:", BlockKey(i)));
  LocalClient(context.servers.ours_unix).PutAll(keys, std::string(4096, 'v'));

  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0};
  std::vector<std::thread> threads;
  const double before = CpuSeconds(pid);
  const auto start = std::chrono::steady_clock::now();
  for (size_t t = 0; t < kClients; ++t) {
    threads.emplace_back([&, t] {
      LocalClient client(context.servers.ours_unix);
      std::array<std::byte, 4096> buffer;
      uint64_t count = 0;
      for (uint64_t state = t; !stop; ++count) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        client.CopyOut(keys[(state >> 33) % kObjects], buffer);
      }
      hits += count;
    });
  }
  std::this_thread::sleep_for(context.plan.round * context.plan.rounds);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  Row row;
  row.name = "local_daemon_cpu";
  row.ours = 100 * (CpuSeconds(pid) - before) / took.count();
  row.unit = "% of a core";
  row.target = "<= 5";
  if (!context.plan.quick) row.ok = row.ours <= 5;
  row.note = absl::StrCat("while ", kClients, " clients take ",
                          static_cast<uint64_t>(static_cast<double>(hits) / took.count() / 1000),
                          " k hits a second of 4 KiB, copied out");
  context.rows.Print(row);
}

}  // namespace infercache::bench

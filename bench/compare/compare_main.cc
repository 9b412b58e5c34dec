// Measures infercached beside its peers, all of them running; bench/compare.sh starts them.

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/synchronization/mutex.h"
#include "bench/compare/cases.h"

namespace infercache::bench {
namespace {

int Main(int argc, char** argv) {
  // gRPC locks absl::Mutex, and Debian's build of it checks every lock's order unless told not to;
  // infercached does the same.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);

  Servers servers;
  Plan plan;
  std::string output = "text";
  std::vector<std::string> names;
  bool list = false;
  bool header = false;
  CLI::App app("Measures infercached beside its peers; bench/compare.sh starts all of them");
  app.add_flag("--list", list, "Print the names of the cases");
  app.add_flag("--header", header, "Print the names of the columns");
  app.add_flag("--quick", plan.quick, "One short round of each and no verdict");
  app.add_option("-o,--output", output)->check(CLI::IsMember({"text", "json"}));
  app.add_option("--ours", servers.ours);
  app.add_option("--ours-unix", servers.ours_unix);
  app.add_option("--plain-sync", servers.plain_sync);
  app.add_option("--plain-callback", servers.plain_callback);
  app.add_option("--echo", servers.echo);
  app.add_option("--memcached", servers.memcached);
  app.add_option("--redis", servers.redis);
  app.add_option("--daemon-binary", servers.daemon_binary);
  app.add_option("--held-worker-binary", servers.held_worker_binary);
  app.add_option("case", names, "Cases to measure, in this order");
  CLI11_PARSE(app, argc, argv);

  if (list) {
    for (const Case& c : kCases) std::puts(c.name);
    return 0;
  }
  if (plan.quick) {
    plan.rounds = 1;
    plan.round = std::chrono::milliseconds(100);
  }
  RowPrinter rows(output == "json" ? Output::kJson : Output::kText);
  if (header) rows.PrintHeader();
  for (const std::string& name : names) {
    const auto* found = std::find_if(std::begin(kCases), std::end(kCases),
                                     [&name](const Case& c) { return name == c.name; });
    if (found == std::end(kCases)) {
      std::fprintf(stderr, "no case '%s'; --list prints them\n", name.c_str());
      return 2;
    }
    found->run({servers, plan, rows});
  }
  return rows.missed() ? 1 : 0;
}

}  // namespace
}  // namespace infercache::bench

int main(int argc, char** argv) { return infercache::bench::Main(argc, argv); }

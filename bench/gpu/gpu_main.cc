// Measures objects in a GPU's memory beside what one would do without them. Runs on whichever
// driver this process finds, and says which; on tests/fake_cuda it only shows that everything
// works.

#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/synchronization/mutex.h"
#include "bench/gpu/gpu_cases.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::bench {
namespace {

int Main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);

  GpuPlan plan;
  std::string output = "text", device;
  CLI::App app("Measures objects in a GPU's memory; exits with 1 if a target is missed");
  app.add_flag("--quick", plan.rounds.quick, "One short round of each and no verdict");
  app.add_option("-o,--output", output)->check(CLI::IsMember({"text", "json"}));
  app.add_option("--daemon-binary", plan.daemon_binary, "infercached")->required();
  app.add_option("--device", device, "A GPU's UUID [the first one]");
  app.add_option("--value-bytes", plan.value_bytes, "Of each value [16 MiB]");
  CLI11_PARSE(app, argc, argv);
  if (plan.rounds.quick) {
    plan.rounds.rounds = 1;
    plan.rounds.round = std::chrono::milliseconds(100);
  }

  // Of no consequence to a real driver.
  const fake_cuda::FakeDriver devices(1, uint64_t{4} << 30);
  const Gpu gpu(device);
  // Away from the rows, which programs read.
  std::fprintf(stderr, "%s\n", gpu.Description().c_str());
  // There is nothing to be right or wrong about.
  if (gpu.fake()) plan.rounds.quick = true;
  RowPrinter rows(output == "json" ? Output::kJson : Output::kText);
  rows.PrintHeader();
  DaemonFootprint(gpu, plan, rows);
  Demotion(gpu, plan, rows);
  GpuCases cases(gpu, plan, rows);
  cases.LookupAndPin();
  cases.CopyBandwidth();
  cases.CallWithCopy();
  cases.BesideHostMemory();
  return rows.missed() ? 1 : 0;
}

}  // namespace
}  // namespace infercache::bench

int main(int argc, char** argv) { return infercache::bench::Main(argc, argv); }

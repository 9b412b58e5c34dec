// infercached: the command line, and what a process is before the daemon begins.

#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/command_line.h"
#include "server/config_print.h"
#include "server/daemon.h"
#include "server/exit_codes.h"
#include "server/rpc_options.h"
#include "server/text.h"
#include "server/version.h"

namespace infercache::server {
namespace {

int PrintErrors(const absl::Status& status) {
  ForEachPiece(Cat(status.message()), '\n', [](std::string_view line) {
    std::fprintf(stderr, "infercached: %.*s\n", static_cast<int>(line.size()), line.data());
  });
  return kExitConfig;
}

int CheckConfiguration(const LoadedConfig& loaded) {
  for (const std::string& warning : loaded.warnings) {
    std::fprintf(stderr, "infercached: warning: %s\n", warning.c_str());
  }
  const auto options = MakeRpcOptions(loaded.config);
  if (!options.ok()) return PrintErrors(options.status());
  std::printf("configuration ok%s%s\n", loaded.config_file.empty() ? "" : ": ",
              loaded.config_file.c_str());
  return kExitOk;
}

int PrintVersion() {
  std::printf("infercached %s\nrevision  %s\ncompiler  %s\nbuild     %s\ngRPC      %s\n",
              std::string(Version()).c_str(), std::string(Revision()).c_str(),
              std::string(Compiler()).c_str(), std::string(BuildType()).c_str(),
              grpc::Version().c_str());
  return kExitOk;
}

int Main(int argc, char** argv) {
  auto command_line = ParseCommandLine(argc, argv);
  if (!command_line.ok()) {
    PrintErrors(command_line.status());
    std::fprintf(stderr, "Try 'infercached --help'.\n");
    return kExitUsage;
  }
  if (command_line->action == Action::kHelp) {
    std::fputs(HelpText().c_str(), stdout);
    return kExitOk;
  }
  if (command_line->action == Action::kVersion) return PrintVersion();

  auto loaded = LoadConfig(*command_line, environ);
  if (!loaded.ok()) return PrintErrors(loaded.status());
  if (command_line->action == Action::kCheckConfig) return CheckConfiguration(*loaded);
  if (command_line->action == Action::kPrintConfig) {
    std::fputs(PrintConfig(loaded->config).c_str(), stdout);
    return kExitOk;
  }

  // gRPC locks with Abseil's mutexes; Debian's Abseil checks the order of every lock unless told
  // not to.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // gRPC allocates and frees receive buffers of a request's size: with glibc's defaults each put of
  // 1 MiB gives that memory back to the kernel and takes it again, over a hundred page faults a
  // call.
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  // Neither a core file nor another process of this user may show other people's values.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) {
    std::perror("infercached: prctl(PR_SET_DUMPABLE)");
    return kExitOsError;
  }
  int code = kExitOk;
  {
    Daemon daemon(*std::move(command_line), *std::move(loaded));
    code = daemon.Run();
  }
  // No value is left, and a leak checker has to look at the process now.
  prctl(PR_SET_DUMPABLE, 1);
  return code;
}

}  // namespace
}  // namespace infercache::server

int main(int argc, char** argv) { return infercache::server::Main(argc, argv); }

#include "client/cli/exit_code.h"

#include "client/src/admin_client.h"

namespace infercache::cli {

const char kExitCodesHelp[] =
    "Exit codes:\n"
    "  0  done; for reads: everything asked for was there\n"
    "  1  miss: the daemon answered, and something asked for was not there\n"
    "  2  usage: the arguments, or what they name (a key, a trace), cannot be right\n"
    "  3  unreachable: nobody answered at the endpoint, or not within the deadline\n"
    "  4  failed: the daemon refused, a local file could not be read or written, or doctor found\n"
    "     what does not work\n"
    "  5  wrong bytes: replay read other bytes than it had put\n"
    "  130  interrupted";

ExitCode ExitCodeOf(const absl::Status& status) {
  if (IsUnreachable(status)) return ExitCode::kUnreachable;
  return absl::IsInvalidArgument(status) ? ExitCode::kUsage : ExitCode::kFailed;
}

}  // namespace infercache::cli

#include "client/src/status_conversion.h"

#include "absl/strings/cord.h"

namespace infercache {
namespace {

constexpr char kDetailsUrl[] = "type.googleapis.com/google.rpc.Status";

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(ErrorCodeFromWire(status.error_code()), status.error_message());
  if (!status.error_details().empty()) {
    result.SetPayload(kDetailsUrl, absl::Cord(status.error_details()));
  }
  return result;
}

absl::Status AsSaidByDaemon(absl::Status status) {
  status.SetPayload(kDetailsUrl, absl::Cord());
  return status;
}

absl::StatusCode ErrorCodeFromWire(int code) {
  if (code <= 0 || code > static_cast<int>(absl::StatusCode::kUnauthenticated)) {
    return absl::StatusCode::kUnknown;
  }
  return static_cast<absl::StatusCode>(code);
}

bool IsUnreachable(const absl::Status& status) {
  return (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) &&
         !status.GetPayload(kDetailsUrl).has_value();
}

}  // namespace infercache

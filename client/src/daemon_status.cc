#include "client/src/daemon_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache {

absl::StatusCode ErrorCodeFromWire(int64_t code) {
  if (code <= 0 || code > static_cast<int>(absl::StatusCode::kUnauthenticated)) {
    return absl::StatusCode::kUnknown;
  }
  return static_cast<absl::StatusCode>(code);
}

absl::Status AsSaidByDaemon(absl::Status status) {
  status.SetPayload(kStatusDetailsUrl, absl::Cord());
  return status;
}

absl::Status SaidByDaemon(uint32_t code, const std::string& message) {
  return AsSaidByDaemon(
      absl::Status(ErrorCodeFromWire(code), message.substr(0, kMaxDaemonMessageBytes)));
}

absl::Status BadAnswer(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the daemon's answer makes no sense: ", what));
}

absl::Status Unshared(const absl::Status& status) {
  absl::Status copy(status.code(), status.message());
  if (const auto details = status.GetPayload(kStatusDetailsUrl); details.has_value()) {
    copy.SetPayload(kStatusDetailsUrl, *details);
  }
  return copy;
}

bool IsUnreachable(const absl::Status& status) {
  return (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) &&
         !status.GetPayload(kStatusDetailsUrl).has_value();
}

}  // namespace infercache

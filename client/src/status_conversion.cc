#include "client/src/status_conversion.h"

#include "absl/strings/cord.h"

namespace infercache {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(ErrorCodeFromWire(status.error_code()), status.error_message());
  if (!status.error_details().empty()) {
    result.SetPayload(kStatusDetailsUrl, absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace infercache

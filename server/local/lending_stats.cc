#include "server/local/lending_stats.h"

namespace infercache::local {

std::string_view LendingRefusalName(LendingRefusal refusal) {
  switch (refusal) {
    case LendingRefusal::kAccess:
      return "access";
    case LendingRefusal::kExists:
      return "exists";
    case LendingRefusal::kGone:
      return "gone";
    case LendingRefusal::kInvalid:
      return "invalid";
    case LendingRefusal::kLimit:
      return "limit";
    case LendingRefusal::kStopping:
      return "stopping";
  }
  return "";
}

LendingRefusal WhyRefused(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kPermissionDenied:
      return LendingRefusal::kAccess;
    case absl::StatusCode::kAlreadyExists:
      return LendingRefusal::kExists;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
      return LendingRefusal::kGone;
    case absl::StatusCode::kUnavailable:
      return LendingRefusal::kStopping;
    case absl::StatusCode::kInvalidArgument:
      return LendingRefusal::kInvalid;
    default:  // RESOURCE_EXHAUSTED
      return LendingRefusal::kLimit;
  }
}

}  // namespace infercache::local

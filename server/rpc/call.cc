#include "server/rpc/call.h"

#include "absl/strings/str_cat.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

constexpr std::string_view kMethodNames[] = {
    "Cache/Get",
    "Cache/Put",
    "Cache/Match",
    "Cache/Exists",
    "Cache/Delete",
    "Cache/Touch",
    "Cache/List",
    "Cache/GetStream",
    "Cache/PutStream",
    "Cache/Flight",
    "Admin/GetInfo",
    "Admin/GetStats",
    "Admin/CreateNamespace",
    "Admin/ListNamespaces",
    "Admin/DeleteNamespace",
    "Admin/SetPolicy",
    "Admin/AdvanceClock",
    "Admin/Flush",
    "Admin/SetLogLevel",
    "Admin/Drain",
};
static_assert(std::size(kMethodNames) == static_cast<size_t>(Method::kDrain) + 1);

}  // namespace

std::span<const std::string_view> MethodNameTable() { return kMethodNames; }

CallScope::CallScope(CallMonitor& monitor, Method method)
    : monitor_(monitor), started_(std::chrono::steady_clock::now()) {
  record_.method = kMethodNames[static_cast<size_t>(method)];
  // Until End says otherwise: the client went away before there was an answer.
  record_.code = absl::StatusCode::kCancelled;
  if (monitor_.in_flight_.fetch_add(1, std::memory_order_relaxed) >= monitor_.max_calls_) {
    admission_ = WithReason(absl::ResourceExhaustedError(absl::StrCat(
                                "the limit of ", monitor_.max_calls_, " calls at once is reached")),
                            "CALLS_LIMIT");
  }
}

CallScope::~CallScope() {
  monitor_.in_flight_.fetch_sub(1, std::memory_order_relaxed);
  if (monitor_.observer_ == nullptr) return;
  record_.latency = absl::FromChrono(std::chrono::steady_clock::now() - started_);
  monitor_.observer_->OnCall(record_);
}

grpc::Status CallScope::End(const absl::Status& status) {
  record_.code = status.code();
  return ToGrpcStatus(status);
}

}  // namespace infercache::rpc

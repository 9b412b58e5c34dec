#include "server/rpc/error.h"

#include <grpcpp/support/status.h>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/rpc/error_details.pb.h"

namespace infercache::rpc {
namespace {

constexpr char kReasonPayload[] = "infercache/reason";
constexpr char kTypePrefix[] = "type.googleapis.com/google.rpc.";
constexpr int kRetryDelayMs = 100;
// gRPC drops headers beyond 8 KiB by default, and the message travels twice.
constexpr size_t kMaxMessageBytes = 1024;
constexpr size_t kMaxPrintedBytes = 64;

template <typename Message>
void AddDetail(std::string_view name, const Message& message, wire::Status& status) {
  google::protobuf::Any& any = *status.add_details();
  any.set_type_url(absl::StrCat(kTypePrefix, AbslView(name)));
  message.SerializeToString(any.mutable_value());
}

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason) {
  if (!status.ok() && !status.GetPayload(kReasonPayload)) {
    status.SetPayload(kReasonPayload, absl::Cord(AbslView(reason)));
  }
  return status;
}

absl::Status AtField(const absl::Status& status, std::string_view where) {
  if (status.ok()) return status;
  absl::Status result(status.code(), absl::StrCat(AbslView(where), ": ", status.message()));
  status.ForEachPayload([&result](absl::string_view url, const absl::Cord& payload) {
    result.SetPayload(url, payload);
  });
  return result;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // The codes of both are the same numbers.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message().substr(0, kMaxMessageBytes));

  wire::Status details;
  details.set_code(code);
  details.set_message(message);
  wire::ErrorInfo info;
  const auto reason = status.GetPayload(kReasonPayload);
  info.set_reason(reason ? std::string(*reason) : absl::StatusCodeToString(status.code()));
  info.set_domain("infercache");
  AddDetail("ErrorInfo", info, details);
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    wire::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(kRetryDelayMs * 1'000'000);
    AddDetail("RetryInfo", retry, details);
  }
  return grpc::Status(code, message, details.SerializeAsString());
}

std::string Printable(std::string_view bytes) {
  if (bytes.size() <= kMaxPrintedBytes) return absl::CHexEscape(AbslView(bytes));
  return absl::StrCat(absl::CHexEscape(AbslView(bytes.substr(0, kMaxPrintedBytes))), "...");
}

}  // namespace infercache::rpc

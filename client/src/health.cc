#include "client/src/health.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "client/src/status_conversion.h"
#include "google/protobuf/io/coded_stream.h"

namespace infercache {
namespace {

constexpr uint32_t kServiceTag = 1 << 3 | 2;
constexpr uint32_t kStatusField = 1;
constexpr uint64_t kServing = 1;

}  // namespace

grpc::ByteBuffer MakeHealthRequest(std::string_view service) {
  std::string message;
  if (!service.empty()) {
    uint8_t head[12];
    uint8_t* end = google::protobuf::io::CodedOutputStream::WriteVarint32ToArray(kServiceTag, head);
    end = google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(service.size(), end);
    message.assign(reinterpret_cast<char*>(head), static_cast<size_t>(end - head));
    message.append(service);
  }
  const grpc::Slice slice(message);
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status ParseHealthResponse(const grpc::ByteBuffer& response) {
  const ReceivedMessage message(response);
  WireCursor cursor = message.cursor();
  uint64_t serving_status = 0;  // UNKNOWN
  while (true) {
    const absl::StatusOr<std::optional<WireField>> field = cursor.Next();
    if (!field.ok()) return BadAnswer(field.status().message());
    if (!field->has_value()) break;
    if ((*field)->number == kStatusField) serving_status = (*field)->value;
  }
  if (serving_status == kServing) return absl::OkStatus();
  return AsSaidByDaemon(
      absl::UnavailableError(absl::StrCat("the daemon answers but is not serving (health status ",
                                          serving_status, "): it is starting or draining")));
}

}  // namespace infercache

#include "client/src/get_response.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

// 4096 parts of 8 dimensions fit; a description is the only thing here that is copied by length.
constexpr uint64_t kMaxDescriptionBytes = uint64_t{1} << 20;

absl::StatusOr<ObjectDescription> ParseDescription(const WireCursor& message) {
  if (message.remaining() > kMaxDescriptionBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("object description of ", message.remaining(), " bytes"));
  }
  v1::ObjectDescription proto;
  if (!proto.ParseFromString(message.ToString())) {
    return absl::InvalidArgumentError("object description cannot be parsed");
  }
  return FromProto(proto);
}

absl::Status WrongType(const WireField& field) {
  return absl::InvalidArgumentError(absl::StrCat("field ", field.number, " has the wrong type"));
}

bool IsNumber(const WireField& field) { return field.type == WireField::Type::kNumber; }

absl::StatusOr<ReceivedResult> ParseResult(WireCursor message) {
  ReceivedResult result;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<WireField> field, message.Next());
    if (!field.has_value()) break;
    const bool number_expected = field->number == v1::GetResult::kFoundFieldNumber ||
                                 field->number == v1::GetResult::kValueOmittedFieldNumber;
    const bool known = number_expected || field->number == v1::GetResult::kObjectFieldNumber ||
                       field->number == v1::GetResult::kValueFieldNumber;
    if (!known) continue;
    if (IsNumber(*field) != number_expected) return WrongType(*field);
    switch (field->number) {
      case v1::GetResult::kFoundFieldNumber:
        result.found = field->value != 0;
        break;
      case v1::GetResult::kValueOmittedFieldNumber:
        result.value_omitted = field->value != 0;
        break;
      case v1::GetResult::kObjectFieldNumber: {
        ASSIGN_OR_RETURN(result.description, ParseDescription(field->bytes));
        break;
      }
      default:
        result.value = field->bytes;
    }
  }
  if (!result.found) return ReceivedResult();
  if (result.description.parts.empty()) {
    return absl::InvalidArgumentError("object without a description");
  }
  if (!result.value_omitted && result.value.remaining() != result.description.size_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("value of ", result.value.remaining(),
                                                   " bytes for an object of ",
                                                   result.description.size_bytes));
  }
  return result;
}

absl::StatusOr<ReceivedResult> ParseStreamHeader(const WireCursor& message) {
  if (message.remaining() > kMaxDescriptionBytes) {
    return absl::InvalidArgumentError("stream header is too long");
  }
  v1::GetStreamHeader proto;
  if (!proto.ParseFromString(message.ToString())) {
    return absl::InvalidArgumentError("stream header cannot be parsed");
  }
  ReceivedResult result;
  result.found = proto.found();
  result.value_omitted = true;
  if (result.found) {
    ASSIGN_OR_RETURN(result.description, FromProto(proto.object()));
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<ReceivedResult>> ParseGetResponse(WireCursor message, size_t expected) {
  std::vector<ReceivedResult> results;
  results.reserve(expected);
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<WireField> field, message.Next());
    if (!field.has_value()) break;
    if (field->number != v1::GetResponse::kResultsFieldNumber) continue;
    if (IsNumber(*field)) return WrongType(*field);
    if (results.size() == expected) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", expected, " results"));
    }
    ASSIGN_OR_RETURN(ReceivedResult result, ParseResult(field->bytes));
    results.push_back(std::move(result));
  }
  if (results.size() != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat(results.size(), " results for ", expected, " keys"));
  }
  return results;
}

absl::StatusOr<ReceivedChunk> ParseGetStreamResponse(WireCursor message) {
  ReceivedChunk result;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<WireField> field, message.Next());
    if (!field.has_value()) break;
    if (field->number == v1::GetStreamResponse::kHeaderFieldNumber) {
      if (IsNumber(*field)) return WrongType(*field);
      ASSIGN_OR_RETURN(result.header, ParseStreamHeader(field->bytes));
      result.is_header = true;
    } else if (field->number == v1::GetStreamResponse::kChunkFieldNumber) {
      if (IsNumber(*field)) return WrongType(*field);
      result.chunk = field->bytes;
      result.is_header = false;
    }
  }
  return result;
}

}  // namespace infercache

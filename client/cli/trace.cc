#include "client/cli/trace.h"

#include <bitset>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "client/cli/file_io.h"
#include "common/status_macros.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;

enum Field { kTimestamp, kInputLength, kOutputLength, kHashIds, kFields, kUnknown = kFields };
constexpr const char* kFieldNames[kFields] = {"timestamp", "input_length", "output_length",
                                              "hash_ids"};

// Takes the tokens of one line. depth_ counts what is open: 1 = the request, 2 = hash_ids or the
// inside of an unknown field, whose tokens are skipped.
class LineHandler final : public Json::json_sax_t {
 public:
  explicit LineHandler(const TraceLimits& limits) : limits_(limits) {}

  absl::Status Finish() {
    if (!error_.ok()) return error_;
    for (int field = 0; field < kFields; ++field) {
      if (!seen_[field]) return Error(fmt::format("field \"{}\" is missing", kFieldNames[field]));
    }
    return absl::OkStatus();
  }
  TraceRequest Take() { return std::move(request_); }

  bool number_unsigned(number_unsigned_t value) override {
    if (in_ids_) {
      if (request_.ids.size() == limits_.max_ids_per_request) {
        return Fail(fmt::format("\"hash_ids\" has more than {} ids", limits_.max_ids_per_request));
      }
      request_.ids.push_back(value);
      return true;
    }
    if (depth_ == 1) {
      switch (field_) {
        case kTimestamp:
          request_.timestamp_ms = value;
          return true;
        case kInputLength:
          request_.input_length = value;
          return true;
        case kOutputLength:
          request_.output_length = value;
          return true;
        default:
          break;
      }
    }
    return Skip("a number");
  }
  bool null() override { return Skip("null"); }
  bool boolean(bool) override { return Skip("a boolean"); }
  bool number_integer(number_integer_t) override { return Skip("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Skip("not an unsigned 64-bit integer");
  }
  bool string(string_t&) override { return Skip("a string"); }
  bool binary(binary_t&) override { return Skip("binary"); }

  bool start_object(std::size_t) override {
    if (depth_ > 0 && !Skip("an object")) return false;
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ == 1 && field_ == kHashIds) {
      in_ids_ = true;
    } else if (!Skip("an array")) {
      return false;
    }
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    if (depth_ == 1) in_ids_ = false;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    field_ = kUnknown;
    for (int field = 0; field < kFields; ++field) {
      if (name == kFieldNames[field]) field_ = static_cast<Field>(field);
    }
    if (field_ == kUnknown) return true;
    if (seen_[field_]) return Fail(fmt::format("field \"{}\" stands twice", name));
    seen_.set(field_);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(fmt::format("not a JSON object (at byte {})", position));
  }

 private:
  static absl::Status Error(const std::string& what) { return absl::InvalidArgumentError(what); }
  bool Fail(const std::string& what) {
    error_ = Error(what);
    return false;
  }
  // A value that belongs to no known field is skipped; to a known one, it has the wrong type.
  bool Skip(std::string_view what) {
    if (in_ids_) {
      return Fail(fmt::format("\"hash_ids\"[{}] must be an unsigned integer, but is {}",
                              request_.ids.size(), what));
    }
    if (depth_ == 0) return Fail(fmt::format("must be a JSON object, but is {}", what));
    if (depth_ > 1 || field_ == kUnknown) return true;
    const char* expected =
        field_ == kHashIds ? "an array of unsigned integers" : "an unsigned integer";
    return Fail(fmt::format("\"{}\" must be {}, but is {}", kFieldNames[field_], expected, what));
  }

  const TraceLimits& limits_;
  TraceRequest request_;
  absl::Status error_;
  std::bitset<kFields> seen_;
  Field field_ = kUnknown;
  bool in_ids_ = false;
  uint64_t depth_ = 0;
};

}  // namespace

absl::StatusOr<TraceRequest> ParseTraceLine(std::string_view line, const TraceLimits& limits) {
  if (line.size() > limits.max_line_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("line of {} bytes, at most {}", line.size(), limits.max_line_bytes));
  }
  LineHandler handler(limits);
  // The result is what the handler recorded: it is false exactly if the handler has an error.
  Json::sax_parse(line, &handler);
  RETURN_IF_ERROR(handler.Finish());
  return handler.Take();
}

absl::StatusOr<Trace> Trace::Parse(std::string_view text, std::string_view name,
                                   const TraceLimits& limits) {
  Trace trace;
  absl::flat_hash_set<uint64_t> unique;
  for (uint64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);

    auto request = ParseTraceLine(line, limits);
    if (!request.ok()) {
      return absl::Status(
          request.status().code(),
          fmt::format("{}:{}: {}", name, number, std::string(request.status().message())));
    }
    unique.insert(request->ids.begin(), request->ids.end());
    trace.blocks_ += request->ids.size();
    trace.requests_.push_back(*std::move(request));
  }
  if (trace.requests_.empty()) {
    return absl::InvalidArgumentError(fmt::format("{}:1: the trace is empty", name));
  }
  trace.unique_blocks_ = unique.size();
  return trace;
}

absl::StatusOr<Trace> Trace::Load(const std::string& path, const TraceLimits& limits) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return Parse(text, path == "-" ? "standard input" : path, limits);
}

}  // namespace infercache::cli

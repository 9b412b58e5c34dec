// The daemon's log: lines on standard error, as text or as one JSON object each, written by a
// thread of its own so that a slow reader of standard error never stops a call.
//
// Everyone logs through spdlog's default logger (spdlog::info(...)) or, where a machine shall read
// the values, through Log() with fields. Thread-safe.

#pragma once

#include <spdlog/common.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace spdlog {
class formatter;
namespace details {
class thread_pool;
}
}  // namespace spdlog

namespace infercache::server {

struct LogField {
  std::string_view name;
  std::string value;
};

// "message name=value ..." in text; {"msg": "message", "name": "value", ...} in JSON.
void Log(spdlog::level::level_enum level, std::string_view message,
         std::initializer_list<LogField> fields = {});

// Writes a line before it returns, ahead of those that wait, unless standard error takes none now:
// for a process about to end.
void LogNow(spdlog::level::level_enum level, std::string_view message);

// Installs the default logger; the destructor writes what is left, for 2 s at most; lines after
// that are written by whoever logs them. When lines come faster than standard error takes them, the
// oldest of 8,192 waiting ones are dropped.
class Logging {
 public:
  // `level`: trace, debug, info, warn or error. `format`: text or json.
  Logging(std::string_view level, std::string_view format);
  ~Logging();
  Logging(const Logging&) = delete;
  Logging& operator=(const Logging&) = delete;

 private:
  const std::string format_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;
};

// Returns the level before. INVALID_ARGUMENT names the levels there are.
absl::StatusOr<std::string> SetLogLevel(std::string_view level);

// For tests: the formatter of a format.
std::unique_ptr<spdlog::formatter> MakeLogFormatter(std::string_view format);

}  // namespace infercache::server

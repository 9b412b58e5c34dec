#include "server/logging.h"

#include <limits.h>
#include <poll.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/start_thread.h"
#include "server/text.h"

namespace infercache::server {
namespace {

constexpr size_t kQueueLines = 8192;
constexpr std::chrono::seconds kLongestLastWrite{2};
constexpr std::string_view kJson = "json";
// Of the default logger, which is the process's, too.
std::atomic<bool> writes_json{false};

// Log() hands its fields through spdlog inside the payload: message, then for each field this byte,
// the name, '=' and the value. Escaped() keeps it out of everything else.
constexpr char kFieldSeparator = '\x1f';

constexpr std::array<std::pair<std::string_view, spdlog::level::level_enum>, 5> kLevels = {{
    {"trace", spdlog::level::trace},
    {"debug", spdlog::level::debug},
    {"info", spdlog::level::info},
    {"warn", spdlog::level::warn},
    {"error", spdlog::level::err},
}};

std::string_view LevelName(spdlog::level::level_enum level) {
  for (const auto& [name, value] : kLevels) {
    if (value == level) return name;
  }
  return "error";  // critical: nobody here logs it
}

// UTC with milliseconds, RFC 3339.
std::string Timestamp(std::chrono::system_clock::time_point time) {
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const std::time_t seconds = ms / 1000;
  std::tm utc;
  gmtime_r(&seconds, &utc);
  std::array<char, 32> text;
  const size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  std::string out(text.data(), size);
  const std::string fraction = std::to_string(ms % 1000 + 1000);
  Append(out, ".", std::string_view(fraction).substr(1), "Z");
  return out;
}

class Formatter final : public spdlog::formatter {
 public:
  explicit Formatter(bool json) : json_(json) {}

  void format(const spdlog::details::log_msg& msg, spdlog::memory_buf_t& dest) override {
    const std::string_view payload(msg.payload.data(), msg.payload.size());
    const std::string line = json_ ? Json(msg, payload) : Text(msg, payload);
    dest.append(line.data(), line.data() + line.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<Formatter>(json_);
  }

 private:
  static std::string Text(const spdlog::details::log_msg& msg, std::string_view payload) {
    std::string line = Cat(Timestamp(msg.time), " ", LevelName(msg.level));
    ForEachPiece(payload, kFieldSeparator, [&line](std::string_view piece) {
      line.push_back(' ');
      // One line a message, whatever a peer put into it.
      for (char c : piece) line.push_back(static_cast<unsigned char>(c) < 0x20 ? ' ' : c);
    });
    line.push_back('\n');
    return line;
  }

  static std::string Json(const spdlog::details::log_msg& msg, std::string_view payload) {
    nlohmann::ordered_json object;
    object["ts"] = Timestamp(msg.time);
    object["level"] = LevelName(msg.level);
    bool first = true;
    ForEachPiece(payload, kFieldSeparator, [&object, &first](std::string_view piece) {
      const size_t equals = piece.find('=');
      if (std::exchange(first, false)) {
        object["msg"] = piece;
      } else if (equals != std::string_view::npos) {
        object[std::string(piece.substr(0, equals))] = piece.substr(equals + 1);
      }
    });
    // `replace`: text that is not UTF-8 must not throw.
    return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  const bool json_;
};

// Not stderr, whose lock the end of a process waits for, and whoever waits for a pipe that nobody
// reads has.
class StandardError final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    spdlog::memory_buf_t text;
    formatter_->format(msg, text);
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = write(STDERR_FILENO, text.data() + done, text.size() - done);
      if (n < 0 && errno != EINTR) return;  // nobody to tell
      if (n > 0) done += static_cast<size_t>(n);
    }
  }
  void flush_() override {}
};

std::string WithoutSeparator(std::string_view text) {
  return ReplaceAll(text, kFieldSeparator, " ");
}

}  // namespace

void Log(spdlog::level::level_enum level, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (!spdlog::should_log(level)) return;
  std::string payload = WithoutSeparator(message);
  for (const LogField& field : fields) {
    payload.push_back(kFieldSeparator);
    Append(payload, field.name, "=", WithoutSeparator(field.value));
  }
  spdlog::log(level, "{}", payload);
}

void LogNow(spdlog::level::level_enum level, std::string_view message) {
  const spdlog::details::log_msg line("infercached", level,
                                      spdlog::string_view_t(message.data(), message.size()));
  spdlog::memory_buf_t text;
  Formatter(writes_json).format(line, text);
  // Not by the logger's sink: who waits for a standard error that nobody reads has its lock.
  pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) return;
  (void)!write(STDERR_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
}

Logging::Logging(std::string_view level, std::string_view format)
    : format_(format), pool_(std::make_shared<spdlog::details::thread_pool>(kQueueLines, 1)) {
  writes_json = format == kJson;
  auto logger =
      std::make_shared<spdlog::async_logger>("infercached", std::make_shared<StandardError>(),
                                             pool_, spdlog::async_overflow_policy::overrun_oldest);
  logger->set_formatter(MakeLogFormatter(format));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  (void)SetLogLevel(level);  // checked with the configuration
}

Logging::~Logging() {
  // If standard error takes it: nobody is left to end a process that waits.
  std::promise<void> written;
  const std::future<void> end = written.get_future();
  auto writes = StartThread("infercached-log", [pool = std::move(pool_), format = format_,
                                                written = std::move(written)]() mutable {
    pool.reset();  // writes what is queued
    auto direct =
        std::make_shared<spdlog::logger>("infercached", std::make_shared<StandardError>());
    direct->set_formatter(MakeLogFormatter(format));
    spdlog::set_default_logger(std::move(direct));
    written.set_value();
  });
  if (!writes.ok()) return;  // out of threads: what was queued is written, and no more
  writes->detach();
  (void)end.wait_for(kLongestLastWrite);
}

absl::StatusOr<std::string> SetLogLevel(std::string_view level) {
  for (const auto& [name, value] : kLevels) {
    if (name != level) continue;
    std::string before(LevelName(spdlog::get_level()));
    spdlog::set_level(value);
    return before;
  }
  return absl::InvalidArgumentError(
      Cat("log level \"", Escaped(level), "\" is none of trace, debug, info, warn, error"));
}

std::unique_ptr<spdlog::formatter> MakeLogFormatter(std::string_view format) {
  return std::make_unique<Formatter>(format == kJson);
}

}  // namespace infercache::server

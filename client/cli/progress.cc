#include "client/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/time/clock.h"
#include "client/cli/units.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr int kBarWidth = 30;
constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr char kEraseLine[] = "\r\x1b[K";

}  // namespace

Progress::Progress(std::string label)
    : label_(std::move(label)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(absl::Now()),
      last_(start_) {}

Progress::~Progress() {
  if (drawn_) std::fputs(kEraseLine, stderr);
}

bool Progress::Due() {
  if (!terminal_) return false;
  const absl::Time now = absl::Now();
  if (now - last_ < kRedraw) return false;
  last_ = now;
  return true;
}

void Progress::Draw(const std::string& line) {
  std::fputs((kEraseLine + line).c_str(), stderr);
  drawn_ = true;
}

void Progress::Show(double done, double total) {
  if (Due()) Draw(ProgressLine(label_, done, total, last_ - start_));
}

void Progress::Spin() {
  if (Due()) Draw(fmt::format("{}  {}", label_, FormatElapsed(last_ - start_)));
}

std::string ProgressLine(const std::string& label, double done, double total,
                         absl::Duration elapsed) {
  const double share = total > 0 ? std::clamp(done / total, 0.0, 1.0) : 0;
  const int filled = static_cast<int>(share * kBarWidth);
  std::string line = fmt::format("{} [{}{}] {:3.0f} %", label, std::string(filled, '#'),
                                 std::string(kBarWidth - filled, '.'), 100 * share);
  if (share > 0) line += fmt::format("  {} left", FormatElapsed(elapsed * (1 / share - 1)));
  return line;
}

}  // namespace infercache::cli

// A progress bar on standard error, only where that is a terminal. Draws in place; nothing is left
// of it once it is destroyed. One thread.

#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace infercache::cli {

class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // A bar with the estimated rest. Drawing is limited to ten a second; call it as often as you
  // like.
  void Show(double done, double total);
  // For what has no known end: the time so far.
  void Spin();

 private:
  bool Due();
  void Draw(const std::string& line);

  const std::string label_;
  const bool terminal_;
  const absl::Time start_;
  absl::Time last_;
  bool drawn_ = false;
};

// The line that Show() draws, without control characters.
std::string ProgressLine(const std::string& label, double done, double total,
                         absl::Duration elapsed);

}  // namespace infercache::cli

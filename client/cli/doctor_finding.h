// What `infercachectl doctor` finds, one sentence each.

#pragma once

#include <string>

namespace infercache::cli {

// In order: the worst finding decides how the command ends.
enum class Level {
  kOk,
  kWarn,  // works, but slower, less safe or less observable than it could be
  kFail,  // does not work, or will stop working under load
};

struct Finding {
  std::string check;  // what was looked at: "cgroup_memory"; names never change meaning
  Level level = Level::kOk;
  std::string found;
  std::string advice = {};  // what to do about it; empty where there is nothing to do
};

}  // namespace infercache::cli

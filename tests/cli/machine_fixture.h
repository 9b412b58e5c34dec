// A machine made of files, for tests of the probes that read the kernel's.

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "client/cli/doctor_machine.h"

namespace infercache::cli {

inline constexpr uint64_t kGiB = uint64_t{1} << 30;

class DoctorMachine : public testing::Test {
 protected:
  DoctorMachine() : root_(testing::TempDir() + "/machine-XXXXXX") {
    if (mkdtemp(root_.data()) == nullptr) std::abort();
  }
  ~DoctorMachine() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  Machine machine() const { return Machine(root_); }

  std::string root_;
};

inline Subject Daemon(uint64_t capacity_bytes) {
  return {.process = "42", .is_daemon = true, .capacity_bytes = capacity_bytes};
}

}  // namespace infercache::cli

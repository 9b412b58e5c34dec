// A directory that stands in for /proc and /sys.

#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace infercache {

class KernelFiles {
 public:
  KernelFiles() : root_(::testing::TempDir() + "/kernel-XXXXXX") {
    if (mkdtemp(root_.data()) == nullptr) std::abort();
  }
  ~KernelFiles() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  KernelFiles(const KernelFiles&) = delete;
  KernelFiles& operator=(const KernelFiles&) = delete;

  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void WriteNumber(const std::string& path, uint64_t number) const {
    Write(path, std::to_string(number) + "\n");
  }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

// Of 4 KiB, that a mapping has memory for.
inline size_t PagesPresent(std::span<std::byte> bytes) {
  std::vector<unsigned char> present((bytes.size() + 4095) / 4096);
  if (mincore(bytes.data(), bytes.size(), present.data()) != 0) std::abort();
  return static_cast<size_t>(
      std::count_if(present.begin(), present.end(), [](unsigned char page) { return page & 1; }));
}

}  // namespace infercache

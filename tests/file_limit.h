// A process that has no room for more descriptors, for a while.

#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <vector>

#include "common/unique_fd.h"

namespace infercache {

class FileLimit {
 public:
  // But for `room`.
  explicit FileLimit(int room = 0) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    std::vector<UniqueFd> next;
    for (int i = 0; i <= room; ++i) next.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit less = before_;
    less.rlim_cur = static_cast<rlim_t>(next.back().get());
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &less), 0);
  }
  ~FileLimit() { setrlimit(RLIMIT_NOFILE, &before_); }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_ = {};
};

}  // namespace infercache

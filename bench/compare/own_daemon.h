// A daemon that a case starts for itself, with its own options. Ends the program where it cannot.

#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace infercache::bench {

// Serves once the constructor is through, with one namespace "default" that has all of its
// `arena_bytes`; the destructor stops it.
class OwnDaemon {
 public:
  // `more` are arguments besides.
  OwnDaemon(const std::string& binary, const std::string& page_kind, uint64_t arena_bytes,
            const std::vector<std::string>& more = {});
  ~OwnDaemon();
  OwnDaemon(const OwnDaemon&) = delete;
  OwnDaemon& operator=(const OwnDaemon&) = delete;

  std::string endpoint() const { return "unix:" + socket_path(); }
  // From its start to its READY=1.
  std::chrono::duration<double> start_took() const { return start_took_; }

 private:
  std::string socket_path() const { return (directory_ / "socket").string(); }

  std::filesystem::path directory_;
  pid_t pid_ = 0;
  std::chrono::duration<double> start_took_{};
};

}  // namespace infercache::bench

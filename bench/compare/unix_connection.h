// A blocking connection to a server's Unix socket, for protocols of lines and counted bytes. Ends
// the program if the server does not play along.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/unique_fd.h"

namespace infercache::bench {

// Not thread-safe.
class UnixConnection {
 public:
  explicit UnixConnection(const std::string& path);

  void Send(std::string_view bytes);
  // The next line without its CR LF; valid until the next call.
  std::string_view ReadLine();
  // The next `size` bytes; valid until the next call.
  std::string_view Read(size_t size);
  // Reads a line, which must be this one.
  void Expect(std::string_view line);

 private:
  void Receive();
  void MakeRoom(size_t size);

  const std::string path_;
  const UniqueFd fd_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // of what was received and not yet read
  size_t end_ = 0;
};

}  // namespace infercache::bench

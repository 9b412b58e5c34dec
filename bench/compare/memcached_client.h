// As much of memcached's text protocol as the measurements need. Ends the program on any answer
// that is not the expected one.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench/compare/unix_connection.h"

namespace infercache::bench {

// Not thread-safe.
class MemcachedClient {
 public:
  explicit MemcachedClient(const std::string& socket_path) : connection_(socket_path) {}

  void Set(const std::string& key, std::string_view value);
  // The same value under each key, in one write. The answers must fit the socket's buffers.
  void SetMany(const std::vector<std::string_view>& keys, std::string_view value);
  // The value of a key that is there; valid until the next call.
  std::string_view Get(const std::string& key);
  void FlushAll();

  // A meta-get without flags for each key, which asks only for presence, in one write.
  static std::string PresenceRequest(const std::vector<std::string>& keys);
  // Sends it and returns how many of its `count` keys are there. The answers must fit the socket's
  // buffers, because they are read only after all is sent.
  size_t CountPresent(const std::string& request, size_t count);

  // A counter of `stats`.
  uint64_t Statistic(const std::string& name);

 private:
  void AppendSet(std::string_view key, std::string_view value);

  UnixConnection connection_;
  std::string request_;  // keeps its memory from one Set to the next
};

}  // namespace infercache::bench

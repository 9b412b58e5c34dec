// Stands between a client and a daemon and breaks what the network can break: it cuts connections,
// and it stalls them, which to a client looks like a daemon that was stopped or a cable pulled.

#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace infercache {

class Proxy {
 public:
  // Forwards to 127.0.0.1:`port` of `endpoint` ("127.0.0.1:PORT").
  explicit Proxy(const std::string& endpoint);
  ~Proxy();

  std::string endpoint() const;
  // Closes all connections; new ones are accepted.
  void Cut() {
    cut_ = true;
    Wake();
  }
  // From here on no byte passes, in either direction.
  void Stall() {
    stalled_ = true;
    Wake();
  }

 private:
  struct Pair {
    UniqueFd client;
    UniqueFd daemon;
  };

  void Wake();
  void Run();
  void Accept();

  int daemon_port_ = 0;
  int port_ = 0;
  UniqueFd listener_;
  UniqueFd wake_;
  std::atomic<bool> cut_{false};
  std::atomic<bool> stalled_{false};
  std::atomic<bool> stop_{false};
  std::vector<Pair> pairs_;  // of the thread
  std::thread thread_;
};

}  // namespace infercache

// A daemon of the same-host lane whose every answer a test can write: it has real segments, an
// empty index and no scruples.

#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "common/memory_segment.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

class FakeLocalDaemon {
 public:
  // What goes back for one request. What is not changed is what a daemon without objects says.
  struct Answer {
    v1::LocalResponse response;
    std::vector<int> descriptors;  // the fake's own
    std::string raw = {};          // not empty: these bytes instead
    int times = 1;                 // how often it is sent; 0 = never
    bool close = false;            // afterwards
  };
  // Called on the fake's thread.
  using Script = std::function<void(const v1::LocalRequest& request, Answer& answer)>;

  explicit FakeLocalDaemon(Script script);
  ~FakeLocalDaemon();

  const std::string& path() const { return path_; }
  int connections() const { return connections_; }
  const MemorySegment& index() const { return index_; }
  const MemorySegment& page() const { return page_; }

  static constexpr uint64_t kChunkBytes = 1 << 20;

 private:
  void Serve();
  bool ServeOne(int socket);
  void Prepare(const v1::LocalRequest& request, Answer& answer) const;

  const Script script_;
  const std::string path_;
  MemorySegment index_, page_, chunk_;
  UniqueFd listener_;
  std::atomic<bool> stop_{false};
  std::atomic<int> connections_{0};
  std::thread thread_;
};

}  // namespace infercache

// The part of the configuration that the same-host lane gets, and what it shows in return.

#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/local/local_server.h"
#include "server/rpc/rpc_server.h"

namespace infercache::server {

// All but the functions. INVALID_ARGUMENT names the option.
absl::StatusOr<local::LocalOptions> MakeLocalOptions(const Config& config,
                                                     const std::string& socket_path);

// The lane as Admin and the metrics get it, who do not know it and may look before it is there.
// Thread-safe. Outlives what lane() returned.
class LocalView {
 public:
  LocalView() = default;
  LocalView(const LocalView&) = delete;
  LocalView& operator=(const LocalView&) = delete;

  // Until then the lane is shown as one that nobody used. `server` outlives the last look.
  void Show(const local::LocalServer& server) { server_.store(&server, std::memory_order_release); }
  rpc::LocalLane lane() const;

 private:
  std::atomic<const local::LocalServer*> server_{nullptr};
};

rpc::LocalLaneStats ToLaneStats(const local::LocalStats& stats);

}  // namespace infercache::server

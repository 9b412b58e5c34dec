#include "server/local_options.h"

#include "common/status_macros.h"
#include "server/config_values.h"
#include "server/version.h"

namespace infercache::server {
namespace {

rpc::LendingStats ToLendingStats(const local::LocalStats& stats) {
  const local::LendingStats& lending = stats.lending;
  rpc::LendingStats shown = {.loans = lending.loans,
                             .bytes = lending.bytes,
                             .allocations = lending.allocations,
                             .readers = lending.readers,
                             .borrowed = lending.borrowed,
                             .mapped = lending.mapped,
                             .waiting = lending.waiting,
                             .longest_wait_ms = lending.longest_wait_ms,
                             .lent = lending.lent,
                             .borrows_found = lending.borrows_found,
                             .borrows_not_found = lending.borrows_not_found,
                             .borrows_not_opened = lending.borrows_not_opened,
                             .taken_back_at_once = lending.taken_back_at_once,
                             .taken_back_after_wait = lending.taken_back_after_wait,
                             .owner_gone = lending.owner_gone,
                             .refused = {}};
  for (size_t i = 0; i < local::kLendingRefusals; ++i) {
    shown.refused.emplace_back(local::LendingRefusalName(static_cast<local::LendingRefusal>(i)),
                               stats.lending_refused[i]);
  }
  return shown;
}

}  // namespace

absl::StatusOr<local::LocalOptions> MakeLocalOptions(const Config& config,
                                                     const std::string& socket_path) {
  local::LocalOptions options;
  options.socket_path = socket_path;
  ASSIGN_OR_RETURN(options.socket_mode, ParseFileMode(config.socket_mode));
  options.threads = static_cast<uint32_t>(config.local_threads);
  options.max_sessions = static_cast<uint32_t>(config.local_max_sessions);
  options.daemon_version = std::string(Version());
  options.reservation_timeout =
      absl::Milliseconds(static_cast<int64_t>(config.local_reservation_timeout_ms));
  options.pin_slots = static_cast<uint32_t>(config.local_pin_slots);
  options.pin_budget_divisor = static_cast<uint32_t>(config.local_pin_budget_divisor);
  return options;
}

rpc::LocalLane LocalView::lane() const {
  const auto serving = [this] { return server_.load(std::memory_order_acquire); };
  return {.stats =
              [serving] {
                const local::LocalServer* const server = serving();
                return ToLaneStats(server != nullptr ? server->stats() : local::LocalStats());
              },
          .quarantined_in =
              [serving](std::string_view name) {
                const local::LocalServer* const server = serving();
                return server != nullptr ? server->QuarantinedIn(name) : store::AgedBytes();
              }};
}

rpc::LocalLaneStats ToLaneStats(const local::LocalStats& stats) {
  rpc::LocalLaneStats shown;
  shown.sessions = stats.sessions;
  shown.sessions_opened = stats.sessions_opened;
  shown.sessions_refused = stats.sessions_refused;
  shown.sessions_without_pidfd = stats.sessions_without_pidfd;
  for (size_t i = 0; i < local::kEndReasons; ++i) {
    shown.sessions_ended.emplace_back(local::EndReasonName(static_cast<local::EndReason>(i)),
                                      stats.sessions_ended[i]);
  }
  shown.requests = stats.requests;
  shown.round_trips = stats.round_trips;
  shown.reservations_expired = stats.reservations_expired;
  shown.quarantined_reservations = stats.quarantined_reservations;
  shown.quarantined = stats.quarantined;
  shown.touches_drained = stats.touches_drained;
  shown.lending = ToLendingStats(stats);
  return shown;
}

}  // namespace infercache::server

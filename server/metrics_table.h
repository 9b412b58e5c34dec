// Every metric that the daemon exports: name, kind, labels, help. The text on /metrics and the
// reference page come from here. Base units; counters end in _total; labels have few values. `tier`
// is "host" or the UUID of a GPU.

#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace infercache::server {

enum class MetricKind { kCounter, kGauge, kHistogram };

enum class MetricId : size_t {
  kBuildInfo,
  kReady,
  kCapacityBytes,
  kCommittedBytes,
  kDeviceTierReady,
  kQuotaBytes,
  kUsedBytes,
  kObjects,
  kMaxObjects,
  kReservations,
  kPins,
  kLimboBytes,
  kQuarantinedBytes,
  kArenaPages,
  kLargestFreeBytes,
  kMetadataBytes,
  kLookupHits,
  kLookupMisses,
  kHitBytes,
  kStoreRequests,
  kStoreBytes,
  kEvictions,
  kEvictedBytes,
  kDemoted,
  kDemotedBytes,
  kDemotionsRefused,
  kDemoting,
  kIntegrityFailures,
  kIdleBeforeEvict,
  kAgeAtEvict,
  kUses,
  kClassUses,
  kReuseGap,
  kSavedCompute,
  kClaims,
  kClaimWaiters,
  kClaimsGranted,
  kClaimWaits,
  kCoalescedComputes,
  kLocalSessions,
  kLocalSessionsOpened,
  kLocalSessionsEnded,
  kLocalSessionsRefused,
  kLocalSessionsWithoutPidfd,
  kLocalRequests,
  kLocalRoundTrips,
  kLocalReservationsExpired,
  kLocalTouchesDrained,
  kLent,
  kLentBytes,
  kLentAllocations,
  kLentReaders,
  kLentBorrowed,
  kLentMapped,
  kLentWaiting,
  kLentLongestWait,
  kLends,
  kBorrows,
  kBorrowsNotOpened,
  kLoansEnded,
  kLendingRefused,
  kPinnedResponseBytes,
  kMaxPinnedResponseBytes,
  kCallsInFlight,
  kStalledDisconnects,
  kCallDuration,
  kRequestBytes,
  kResponseBytes,
  kProcessCpu,
  kProcessResident,
  kProcessVirtual,
  kProcessOpenFds,
  kProcessMaxFds,
  kProcessThreads,
  kProcessStart,
  kCount,
};

struct MetricSpec {
  MetricId id;
  std::string_view name;
  MetricKind kind;
  std::string_view labels;  // comma-separated; empty = none
  std::string_view help;
};

inline constexpr std::array kMetricTable = {
    MetricSpec{MetricId::kBuildInfo, "infercache_build_info", MetricKind::kGauge,
               "version,revision", "Always 1; the labels say which build runs."},
    MetricSpec{MetricId::kReady, "infercache_ready", MetricKind::kGauge, "",
               "1 while the daemon serves, 0 while it starts or drains."},
    MetricSpec{MetricId::kCapacityBytes, "infercache_capacity_bytes", MetricKind::kGauge, "",
               "Upper bound of the sum of all quotas; tiers in GPUs are beside it."},
    MetricSpec{MetricId::kCommittedBytes, "infercache_committed_bytes", MetricKind::kGauge, "",
               "Sum of all quotas, deleted namespaces that are still being read included."},
    MetricSpec{
        MetricId::kDeviceTierReady, "infercache_device_tier_ready", MetricKind::kGauge,
        "namespace,tier",
        "Of each tier in a GPU that the configuration asks for: 1 if it is there, 0 if it is "
        "off. The log and infercachectl stat say why."},
    MetricSpec{MetricId::kQuotaBytes, "infercache_quota_bytes", MetricKind::kGauge,
               "namespace,tier", "Quota of a namespace; of its tier in a GPU, the tier's size."},
    MetricSpec{MetricId::kUsedBytes, "infercache_used_bytes", MetricKind::kGauge,
               "namespace,tier,state",
               "Arena bytes in use: reserved (being written, or quarantined), visible, or limbo "
               "(freed, but still being read)."},
    MetricSpec{MetricId::kObjects, "infercache_objects", MetricKind::kGauge, "namespace,tier",
               "Visible objects."},
    MetricSpec{MetricId::kMaxObjects, "infercache_max_objects", MetricKind::kGauge,
               "namespace,tier", "Most objects that the index can hold."},
    MetricSpec{MetricId::kReservations, "infercache_reservations", MetricKind::kGauge,
               "namespace,tier", "Objects being written."},
    MetricSpec{MetricId::kPins, "infercache_pins", MetricKind::kGauge, "namespace,tier,lane",
               "Claims on objects' bytes: daemon (responses on their way, leases of sessions) or "
               "local (clients that read shared memory)."},
    MetricSpec{MetricId::kLimboBytes, "infercache_limbo_bytes", MetricKind::kGauge,
               "namespace,tier,age",
               "Bytes freed, but still being read, by how long: below_1s, below_10s, below_60s, "
               "older. Each byte counts once."},
    MetricSpec{MetricId::kQuarantinedBytes, "infercache_quarantined_bytes", MetricKind::kGauge,
               "namespace,tier,age",
               "Bytes of puts whose session is over or too slow, while their process may still "
               "write them, by how long."},
    MetricSpec{MetricId::kArenaPages, "infercache_arena_pages_info", MetricKind::kGauge,
               "namespace,tier,kind",
               "Always 1; the label says what the arena is made of: 4k, thp or hugetlb."},
    MetricSpec{MetricId::kLargestFreeBytes, "infercache_allocator_largest_free_bytes",
               MetricKind::kGauge, "namespace,tier", "Largest contiguous free run of the arena."},
    MetricSpec{MetricId::kMetadataBytes, "infercache_metadata_bytes", MetricKind::kGauge,
               "namespace,tier", "Memory of the index and of bookkeeping, beside the arena."},
    MetricSpec{
        MetricId::kLookupHits, "infercache_lookup_hits_total", MetricKind::kCounter,
        "namespace,tier,lane",
        "Lookups that found their object: by the daemon (gRPC, Lookup), or by clients of the "
        "same-host lane, which count themselves (local)."},
    MetricSpec{MetricId::kLookupMisses, "infercache_lookup_misses_total", MetricKind::kCounter,
               "namespace,tier,lane", "Lookups that found nothing."},
    MetricSpec{MetricId::kHitBytes, "infercache_hit_bytes_total", MetricKind::kCounter,
               "namespace,tier,lane", "Bytes of the objects that lookups found."},
    MetricSpec{MetricId::kStoreRequests, "infercache_store_requests_total", MetricKind::kCounter,
               "namespace,tier,result",
               "Puts: stored, exists (the key was there) or refused (no room)."},
    MetricSpec{MetricId::kStoreBytes, "infercache_store_bytes_total", MetricKind::kCounter, "",
               "Bytes of stored objects."},
    MetricSpec{
        MetricId::kEvictions, "infercache_evictions_total", MetricKind::kCounter,
        "namespace,tier,reason",
        "Evicted and erased objects: capacity (room for others), neighbour (not the worst, but in "
        "the way of a hole that was large enough), demoted (from a GPU to host memory), expired "
        "(their TTL) or erased."},
    MetricSpec{MetricId::kEvictedBytes, "infercache_evicted_bytes_total", MetricKind::kCounter,
               "namespace,tier", "Bytes of objects evicted to make room."},
    MetricSpec{MetricId::kDemoted, "infercache_demoted_objects_total", MetricKind::kCounter,
               "namespace,tier",
               "Objects that moved from a tier in a GPU to host memory (device.demote)."},
    MetricSpec{MetricId::kDemotedBytes, "infercache_demoted_bytes_total", MetricKind::kCounter,
               "namespace,tier", "Their bytes."},
    MetricSpec{MetricId::kDemotionsRefused, "infercache_demotions_refused_total",
               MetricKind::kCounter, "namespace,tier",
               "Times that an object was to move to host memory, where there was no room for it."},
    MetricSpec{MetricId::kDemoting, "infercache_demoting_seconds", MetricKind::kGauge,
               "namespace,tier",
               "How long the objects that are on their way to host memory have been: more than a "
               "moment if the GPU hangs."},
    MetricSpec{
        MetricId::kIntegrityFailures, "infercache_integrity_failures_total", MetricKind::kCounter,
        "namespace,tier",
        "Hits whose checksum did not match, answered as misses (namespaces with checksums)."},
    MetricSpec{MetricId::kIdleBeforeEvict, "infercache_object_idle_before_evict_seconds",
               MetricKind::kHistogram, "",
               "How long objects evicted to make room had not been used. Short times mean that "
               "the cache is too small."},
    MetricSpec{MetricId::kAgeAtEvict, "infercache_object_age_at_evict_seconds",
               MetricKind::kHistogram, "namespace,tier",
               "How long objects evicted to make room had been there."},
    MetricSpec{MetricId::kUses, "infercache_uses_total", MetricKind::kCounter,
               "namespace,tier,result",
               "Uses of objects, each once a request: hit; or a miss, counted when the object is "
               "stored, because it was evicted (so lately that it would still be there at twice "
               "the capacity), because it expired, or cold (never there, or long gone)."},
    MetricSpec{MetricId::kClassUses, "infercache_class_uses_total", MetricKind::kCounter,
               "namespace,tier,class,result",
               "Uses that hit (hit) and objects stored (stored), by class id, of classes of which "
               "something was stored: what a hint says of reuse."},
    MetricSpec{MetricId::kReuseGap, "infercache_reuse_gap_seconds", MetricKind::kHistogram,
               "namespace,tier,result",
               "Between a use and the one before it: of what was there (hit), and of what was "
               "evicted between them (evicted)."},
    MetricSpec{MetricId::kSavedCompute, "infercache_saved_compute_seconds_total",
               MetricKind::kCounter, "namespace,tier",
               "Computation that hits made unnecessary: the cost that writers stated."},
    MetricSpec{MetricId::kClaims, "infercache_claims", MetricKind::kGauge, "namespace,tier",
               "Keys that one client computes while others may wait (single flight)."},
    MetricSpec{MetricId::kClaimWaiters, "infercache_claim_waiters", MetricKind::kGauge,
               "namespace,tier", "Waits for keys that others compute."},
    MetricSpec{MetricId::kClaimsGranted, "infercache_claims_granted_total", MetricKind::kCounter,
               "namespace,tier", "Claims that clients won, those that passed on to them included."},
    MetricSpec{
        MetricId::kClaimWaits, "infercache_claim_waits_total", MetricKind::kCounter,
        "namespace,tier,result",
        "Waits that ended: hit (the key was stored), win (its claim passed on to the one who "
        "waited) or miss (the deadline came, or nothing was left to wait for)."},
    MetricSpec{
        MetricId::kCoalescedComputes, "infercache_coalesced_computes_total", MetricKind::kCounter,
        "namespace,tier",
        "Computations that single flight made unnecessary: another client's was waited for."},
    MetricSpec{MetricId::kLocalSessions, "infercache_local_sessions", MetricKind::kGauge, "",
               "Open sessions of the same-host lane."},
    MetricSpec{MetricId::kLocalSessionsOpened, "infercache_local_sessions_opened_total",
               MetricKind::kCounter, "", "Sessions that were opened."},
    MetricSpec{MetricId::kLocalSessionsEnded, "infercache_local_sessions_ended_total",
               MetricKind::kCounter, "reason",
               "Sessions that ended: closed, process_gone (the client died), protocol (it broke "
               "it), revoked (it held too much), slow (it did not read its answers) or shutdown."},
    MetricSpec{MetricId::kLocalSessionsRefused, "infercache_local_sessions_refused_total",
               MetricKind::kCounter, "",
               "Connections that got no session: no access, no such namespace, too many."},
    MetricSpec{MetricId::kLocalSessionsWithoutPidfd, "infercache_local_sessions_without_pidfd",
               MetricKind::kGauge, "",
               "Open sessions of which only the end of the connection shows that the client died."},
    MetricSpec{MetricId::kLocalRequests, "infercache_local_requests_total", MetricKind::kCounter,
               "", "Requests of sessions. A hit needs none."},
    MetricSpec{MetricId::kLocalRoundTrips, "infercache_local_round_trips_total",
               MetricKind::kCounter, "", "Requests of sessions that were answered."},
    MetricSpec{MetricId::kLocalReservationsExpired, "infercache_local_reservations_expired_total",
               MetricKind::kCounter, "",
               "Puts aborted because they were not committed within local.reservation_timeout."},
    MetricSpec{MetricId::kLocalTouchesDrained, "infercache_local_touches_drained_total",
               MetricKind::kCounter, "", "Uses of objects that clients reported."},
    MetricSpec{MetricId::kLent, "infercache_lent_tensors", MetricKind::kGauge, "",
               "Tensors in GPU memory of their own that clients lend each other; those included "
               "that were taken back while somebody has them."},
    MetricSpec{MetricId::kLentBytes, "infercache_lent_bytes", MetricKind::kGauge, "",
               "Their bytes."},
    MetricSpec{MetricId::kLentAllocations, "infercache_lent_allocations", MetricKind::kGauge, "",
               "Allocations that they lie in."},
    MetricSpec{MetricId::kLentReaders, "infercache_lent_readers", MetricKind::kGauge, "",
               "Sessions that have borrowed or mapped some, until their process is gone."},
    MetricSpec{MetricId::kLentBorrowed, "infercache_lent_borrowed", MetricKind::kGauge, "",
               "Lent tensors that readers have, counted for each time that they borrowed one."},
    MetricSpec{MetricId::kLentMapped, "infercache_lent_mapped", MetricKind::kGauge, "",
               "Allocations that readers have mapped, counted for each."},
    MetricSpec{
        MetricId::kLentWaiting, "infercache_lent_waiting", MetricKind::kGauge, "",
        "Lent tensors that were taken back and that somebody has: their owners wait, or gave "
        "up waiting and must not free them."},
    MetricSpec{MetricId::kLentLongestWait, "infercache_lent_longest_wait_seconds",
               MetricKind::kGauge, "", "How long the one of them that was taken back first waits."},
    MetricSpec{MetricId::kLends, "infercache_lends_total", MetricKind::kCounter, "",
               "Tensors that were lent."},
    MetricSpec{MetricId::kBorrows, "infercache_borrows_total", MetricKind::kCounter, "result",
               "Keys that clients asked to borrow: hit or miss."},
    MetricSpec{MetricId::kBorrowsNotOpened, "infercache_borrows_not_opened_total",
               MetricKind::kCounter, "",
               "Hits of infercache_borrows_total that were none to the reader: it could not open "
               "the memory (a clash of PIDs, for example), and said so."},
    MetricSpec{MetricId::kLoansEnded, "infercache_loans_ended_total", MetricKind::kCounter,
               "result",
               "Lent tensors that are lent no longer: at_once (taken back, and nobody had it), "
               "waited (taken back, and free once readers had let go) or owner_gone (its owner's "
               "session ended)."},
    MetricSpec{MetricId::kLendingRefused, "infercache_lending_refused_total", MetricKind::kCounter,
               "reason",
               "Refusals to lend, borrow or map: access (no right to write in place), exists "
               "(somebody lends the key), gone (it is being taken back), invalid, limit or "
               "stopping (the daemon drains, the namespace is deleted)."},
    MetricSpec{MetricId::kPinnedResponseBytes, "infercache_pinned_response_bytes",
               MetricKind::kGauge, "",
               "Bytes that gRPC responses on their way hold, of values in the arena and of what "
               "describes them."},
    MetricSpec{MetricId::kMaxPinnedResponseBytes, "infercache_max_pinned_response_bytes",
               MetricKind::kGauge, "", "Bound of infercache_pinned_response_bytes."},
    MetricSpec{MetricId::kCallsInFlight, "infercache_grpc_calls_in_flight", MetricKind::kGauge, "",
               "gRPC calls being served."},
    MetricSpec{MetricId::kStalledDisconnects, "infercache_grpc_stalled_disconnects_total",
               MetricKind::kCounter, "",
               "Connections closed because their client did not take a response."},
    MetricSpec{MetricId::kCallDuration, "infercache_grpc_server_call_duration_seconds",
               MetricKind::kHistogram, "grpc_method,grpc_status",
               "From a request's arrival to its answer's completion."},
    MetricSpec{MetricId::kRequestBytes, "infercache_grpc_request_bytes_total", MetricKind::kCounter,
               "grpc_method", "Bytes of request messages."},
    MetricSpec{MetricId::kResponseBytes, "infercache_grpc_response_bytes_total",
               MetricKind::kCounter, "grpc_method", "Bytes of response messages."},
    MetricSpec{MetricId::kProcessCpu, "process_cpu_seconds_total", MetricKind::kCounter, "",
               "User and system CPU time."},
    MetricSpec{MetricId::kProcessResident, "process_resident_memory_bytes", MetricKind::kGauge, "",
               "Resident memory."},
    MetricSpec{MetricId::kProcessVirtual, "process_virtual_memory_bytes", MetricKind::kGauge, "",
               "Virtual memory."},
    MetricSpec{MetricId::kProcessOpenFds, "process_open_fds", MetricKind::kGauge, "",
               "Open file descriptors."},
    MetricSpec{MetricId::kProcessMaxFds, "process_max_fds", MetricKind::kGauge, "",
               "Most file descriptors that may be open."},
    MetricSpec{MetricId::kProcessThreads, "process_threads", MetricKind::kGauge, "", "Threads."},
    MetricSpec{MetricId::kProcessStart, "process_start_time_seconds", MetricKind::kGauge, "",
               "Start of the process, seconds since 1970."},
};

constexpr bool MetricTableIsInOrder() {
  for (size_t i = 0; i < kMetricTable.size(); ++i) {
    if (static_cast<size_t>(kMetricTable[i].id) != i) return false;
  }
  return kMetricTable.size() == static_cast<size_t>(MetricId::kCount);
}
static_assert(MetricTableIsInOrder());

constexpr const MetricSpec& Spec(MetricId id) { return kMetricTable[static_cast<size_t>(id)]; }
std::string_view MetricKindName(MetricKind kind);

// The reference table of docs/metrics.md, in Markdown.
std::string MetricReference();

}  // namespace infercache::server

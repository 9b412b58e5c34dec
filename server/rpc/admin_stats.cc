#include "server/rpc/admin_stats.h"

#include <string>

namespace infercache::rpc {
namespace {

void SetAge(const store::AgedBytes& bytes, v1::AgedBytes* out) {
  out->set_below_1s_bytes(bytes.below_1s);
  out->set_below_10s_bytes(bytes.below_10s);
  out->set_below_60s_bytes(bytes.below_60s);
  out->set_older_bytes(bytes.older);
}

void SetLending(const LendingStats& stats, v1::LendingStats* out) {
  out->set_loans(stats.loans);
  out->set_lent_bytes(stats.bytes);
  out->set_allocations(stats.allocations);
  out->set_readers(stats.readers);
  out->set_borrowed(stats.borrowed);
  out->set_mapped(stats.mapped);
  out->set_waiting(stats.waiting);
  out->set_longest_wait_ms(stats.longest_wait_ms);
  out->set_lent(stats.lent);
  out->set_borrows_found(stats.borrows_found);
  out->set_borrows_not_found(stats.borrows_not_found);
  out->set_borrows_not_opened(stats.borrows_not_opened);
  out->set_taken_back_at_once(stats.taken_back_at_once);
  out->set_taken_back_after_wait(stats.taken_back_after_wait);
  out->set_owner_gone(stats.owner_gone);
  for (const auto& [reason, count] : stats.refused) {
    auto* refused = out->add_refused();
    refused->set_reason(std::string(reason));
    refused->set_count(count);
  }
}

// What clients of the same-host lane do, and what they leave behind.
void SetLocalStats(const store::NamespaceStats& stats, v1::NamespaceStats* out) {
  out->set_local_hits(stats.client.hits);
  out->set_local_misses(stats.client.misses);
  out->set_local_hit_bytes(stats.client.hit_bytes);
  out->set_local_sessions(stats.client_pages);
  out->set_local_pins(stats.client_pins);
  out->set_quarantined_bytes(stats.quarantined_bytes);
  SetAge(stats.limbo_age, out->mutable_limbo_age());
}

void SetClaimStats(const store::ClaimStats& stats, v1::ClaimStats* out) {
  out->set_claims(stats.claims);
  out->set_waiters(stats.waiters);
  out->set_granted(stats.granted);
  out->set_waits_hit(stats.waits_hit);
  out->set_waits_won(stats.waits_won);
  out->set_waits_missed(stats.waits_missed);
}

void SetUseStats(const store::UseStats& stats, v1::UseStats* out) {
  out->set_hits(stats.hits);
  out->set_misses_evicted(stats.misses_evicted);
  out->set_misses_expired(stats.misses_expired);
  out->set_misses_cold(stats.misses_cold);
  out->set_hit_ratio(stats.HitRatio());
  out->set_hit_ratio_at_2x_capacity(stats.HitRatioAtTwiceTheCapacity());
  for (size_t i = 0; i < stats.classes.size(); ++i) {
    if (stats.classes[i].stored == 0) continue;
    v1::ClassUses& uses = *out->add_classes();
    uses.set_class_id(static_cast<uint32_t>(i));
    uses.set_hits(stats.classes[i].hits);
    uses.set_stored(stats.classes[i].stored);
  }
}

}  // namespace

void SetTier(const store::DeviceTier& tier, v1::TierSpec* out) {
  out->set_device(tier.device);
  out->set_quota_bytes(tier.bytes);
  if (tier.objects == nullptr) out->set_why_off(std::string(tier.why_off.message()));
}

void SetLocalLane(const LocalLaneStats& stats, v1::LocalLaneStats* out) {
  out->set_sessions(stats.sessions);
  out->set_sessions_opened(stats.sessions_opened);
  out->set_sessions_refused(stats.sessions_refused);
  out->set_sessions_without_pidfd(stats.sessions_without_pidfd);
  for (const auto& [reason, count] : stats.sessions_ended) {
    auto* ended = out->add_sessions_ended();
    ended->set_reason(std::string(reason));
    ended->set_count(count);
  }
  out->set_requests(stats.requests);
  out->set_round_trips(stats.round_trips);
  out->set_reservations_expired(stats.reservations_expired);
  out->set_quarantined_reservations(stats.quarantined_reservations);
  SetAge(stats.quarantined, out->mutable_quarantine_age());
  out->set_touches_drained(stats.touches_drained);
  SetLending(stats.lending, out->mutable_lending());
}

void SetStats(const store::Namespace& ns, const LocalLane& local, v1::NamespaceStats* out) {
  const store::NamespaceStats stats = ns.Stats();
  SetLocalStats(stats, out);
  SetClaimStats(stats.claims, out->mutable_claims());
  SetUseStats(stats.uses, out->mutable_uses());
  SetAge(local.quarantined_in ? local.quarantined_in(ns.spec().name) : store::AgedBytes(),
         out->mutable_quarantine_age());
  if (ns.spec().device.empty()) out->set_page_kind(PageKindName(ns.page_kind()));
  out->set_name(ns.spec().name);
  out->set_policy(ns.policy());
  out->set_quota_bytes(stats.quota_bytes);
  out->set_used_bytes(stats.used_bytes);
  out->set_reserved_bytes(stats.reserved_bytes);
  out->set_visible_bytes(stats.visible_bytes);
  out->set_limbo_bytes(stats.limbo_bytes);
  out->set_objects(stats.objects);
  out->set_max_objects(stats.max_objects);
  out->set_reservations(stats.reservations);
  out->set_pins(stats.pins);
  out->set_hits(stats.hits + stats.client.hits);
  out->set_misses(stats.misses + stats.client.misses);
  out->set_stored(stats.stored);
  out->set_exists(stats.exists);
  out->set_refused(stats.refused);
  out->set_erased(stats.erased);
  out->set_expired(stats.expired);
  out->set_evicted(stats.evicted);
  out->set_evicted_neighbours(stats.evicted_neighbours);
  out->set_evicted_bytes(stats.evicted_bytes);
  out->set_demoted(stats.demoted);
  out->set_demoted_bytes(stats.demoted_bytes);
  out->set_demotions_refused(stats.demotions_refused);
  out->set_demoting_ms(stats.demoting_ms);
  out->set_integrity_failures(stats.integrity_failures);
  out->set_hit_bytes(stats.hit_bytes + stats.client.hit_bytes);
  out->set_saved_compute_seconds(
      static_cast<double>(stats.saved_compute_us + stats.client.saved_compute_us) / 1e6);
  out->set_largest_free_bytes(stats.largest_free_bytes);
  out->set_metadata_bytes(stats.metadata_bytes);
  for (const store::DeviceTier& tier : ns.device_tiers()) {
    v1::DeviceTierStats* const shown = out->add_device_tiers();
    SetTier(tier, shown->mutable_tier());
    if (tier.objects != nullptr) SetStats(*tier.objects, local, shown->mutable_objects());
  }
}

}  // namespace infercache::rpc

// The configuration as the store and the same-host lane get it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/local_options.h"
#include "server/store_options.h"

namespace infercache::server {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Pair;

TEST(StoreOptions, TakePagesAndLocking) {
  Config config;
  EXPECT_EQ(MakeStoreOptions(config).arena_pages, PageChoice::kAuto);
  EXPECT_FALSE(MakeStoreOptions(config).lock_memory);
  config.lock_memory = true;
  config.arena_pages = "4k";
  EXPECT_EQ(MakeStoreOptions(config).arena_pages, PageChoice::k4k);
  EXPECT_TRUE(MakeStoreOptions(config).lock_memory);
  config.arena_pages = "thp";
  EXPECT_EQ(MakeStoreOptions(config).arena_pages, PageChoice::kThp);
  config.arena_pages = "hugetlb";
  EXPECT_EQ(MakeStoreOptions(config).arena_pages, PageChoice::kHugetlb);
}

TEST(NamespaceSpec, EveryoneMayUseANamespaceOfWhichNothingElseIsSaid) {
  const store::NamespaceSpec spec = MakeNamespaceSpec(NamespaceConfig());
  EXPECT_TRUE(spec.local_users.everyone);
  EXPECT_TRUE(spec.local_writers.everyone);
  EXPECT_TRUE(spec.writable_by_clients);
}

TEST(NamespaceSpec, ListsUsersAndWriters) {
  NamespaceConfig config;
  config.local_user_ids = {.everyone = false, .users = {1}, .groups = {2}};
  config.local_writers = {"3"};
  config.local_writer_ids = {.everyone = false, .users = {3}};
  const store::NamespaceSpec spec = MakeNamespaceSpec(config);
  EXPECT_FALSE(spec.local_users.everyone);
  EXPECT_THAT(spec.local_users.users, ElementsAre(1u));
  EXPECT_THAT(spec.local_users.groups, ElementsAre(2u));
  EXPECT_FALSE(spec.local_writers.everyone);
  EXPECT_THAT(spec.local_writers.users, ElementsAre(3u));
  EXPECT_TRUE(spec.writable_by_clients);
}

TEST(NamespaceSpec, WithoutWritersItsUsersSendWhatTheyStore) {
  NamespaceConfig config;
  config.local_user_ids = {.everyone = false, .users = {1}};
  config.local_writers.clear();
  config.local_writer_ids = {.everyone = false};
  const store::NamespaceSpec spec = MakeNamespaceSpec(config);
  EXPECT_FALSE(spec.writable_by_clients);
  EXPECT_TRUE(spec.local_writers.everyone) << "of those who are users";
  EXPECT_FALSE(spec.local_users.everyone);
}

TEST(LocalOptions, AreThoseOfTheConfiguration) {
  Config config;
  config.socket_mode = "0606";
  config.local_threads = 3;
  config.local_max_sessions = 5;
  config.local_reservation_timeout_ms = 7'000;
  config.local_pin_slots = 64;
  config.local_pin_budget_divisor = 9;
  const auto options = MakeLocalOptions(config, "/s");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->socket_path, "/s");
  EXPECT_EQ(options->socket_mode, 0606u);
  EXPECT_EQ(options->threads, 3u);
  EXPECT_EQ(options->max_sessions, 5u);
  EXPECT_EQ(options->reservation_timeout, absl::Seconds(7));
  EXPECT_EQ(options->pin_slots, 64u);
  EXPECT_EQ(options->pin_budget_divisor, 9u);
  EXPECT_FALSE(options->daemon_version.empty());
}

TEST(LocalView, ShowsAnUnusedLaneUntilThereIsOne) {
  const LocalView view;
  EXPECT_EQ(view.lane().stats().sessions_opened, 0u);
  EXPECT_EQ(view.lane().stats().sessions_ended.size(), local::kEndReasons);
  EXPECT_EQ(view.lane().quarantined_in("default").total(), 0u);
}

TEST(LocalLaneStats, NameEveryReasonOfAnEnd) {
  local::LocalStats stats;
  stats.sessions = 1;
  stats.round_trips = 2;
  stats.quarantined.older = 3;
  stats.sessions_ended[static_cast<size_t>(local::EndReason::kRevoked)] = 4;
  const rpc::LocalLaneStats shown = ToLaneStats(stats);
  EXPECT_EQ(shown.sessions, 1u);
  EXPECT_EQ(shown.round_trips, 2u);
  EXPECT_EQ(shown.quarantined.older, 3u);
  EXPECT_EQ(shown.sessions_ended.size(), local::kEndReasons);
  EXPECT_THAT(shown.sessions_ended, Contains(Pair("revoked", 4u)));
  EXPECT_THAT(shown.sessions_ended, Contains(Pair("process_gone", 0u)));
}

TEST(LocalLaneStats, NameEveryReasonOfARefusalToLend) {
  local::LocalStats stats;
  stats.lending.bytes = 1;
  stats.lending.owner_gone = 2;
  stats.lending_refused[static_cast<size_t>(local::LendingRefusal::kStopping)] = 3;
  const rpc::LendingStats shown = ToLaneStats(stats).lending;
  EXPECT_EQ(shown.bytes, 1u);
  EXPECT_EQ(shown.owner_gone, 2u);
  EXPECT_THAT(shown.refused,
              ElementsAre(Pair("access", 0u), Pair("exists", 0u), Pair("gone", 0u),
                          Pair("invalid", 0u), Pair("limit", 0u), Pair("stopping", 3u)));
}

}  // namespace
}  // namespace infercache::server

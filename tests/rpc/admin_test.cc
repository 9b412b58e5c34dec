// infercache.v1.Admin, health and the two ways to stop.

#include <gmock/gmock.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/rpc/rpc_fixture.h"
#include "tests/store/unreachable_chunks.h"

namespace infercache::rpc {
namespace {

using grpc::StatusCode;

class AdminTest : public RpcTest {
 protected:
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (admin.get()->*method)(&context, request, response);
  }

  v1::NamespaceStats Stats(const std::string& ns) {
    v1::GetStatsRequest request;
    request.set_namespace_(ns);
    v1::GetStatsResponse response;
    const grpc::Status status = Call(&v1::Admin::Stub::GetStats, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.namespaces_size() == 1 ? response.namespaces(0) : v1::NamespaceStats();
  }

  grpc::Status Create(const v1::NamespaceSpec& spec, v1::NamespaceSpec* made = nullptr) {
    v1::CreateNamespaceRequest request;
    *request.mutable_spec() = spec;
    v1::CreateNamespaceResponse response;
    const grpc::Status status = Call(&v1::Admin::Stub::CreateNamespace, request, &response);
    if (made != nullptr) *made = response.spec();
    return status;
  }

  // One byte of grpc.health.v1: the status of a service. 1 = SERVING, 2 = NOT_SERVING.
  int Health(const std::string& service) {
    const grpc::Slice slice(
        service.empty() ? std::string()
                        : "\x0a" + std::string(1, static_cast<char>(service.size())) + service);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                           grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall(channel.get(), method, &context, request, &response);
    if (!status.ok()) return -static_cast<int>(status.error_code());
    std::vector<grpc::Slice> slices;
    response.Dump(&slices);
    std::string bytes;
    for (const auto& s : slices) bytes.append(reinterpret_cast<const char*>(s.begin()), s.size());
    return bytes.size() == 2 ? bytes[1] : 0;
  }
};

TEST_F(AdminTest, SaysWhatRuns) {
  hooks.version = "1.2.3";
  hooks.revision = "abc";
  hooks.http_address = "127.0.0.1:7401";
  hooks.arena_pages = "hugetlb";
  Start();
  v1::GetInfoResponse info;
  ASSERT_TRUE(Call(&v1::Admin::Stub::GetInfo, {}, &info).ok());
  EXPECT_EQ(info.version(), "1.2.3");
  EXPECT_EQ(info.revision(), "abc");
  EXPECT_EQ(info.http_address(), "127.0.0.1:7401");
  EXPECT_EQ(info.grpc_address(), server->addresses()[0]);
  EXPECT_EQ(info.capacity_bytes(), capacity_bytes);
  EXPECT_EQ(info.max_message_bytes(), options.max_message_bytes);
  EXPECT_EQ(info.pid(), static_cast<uint32_t>(getpid()));
  EXPECT_FALSE(info.draining());
  EXPECT_EQ(info.arena_pages(), "hugetlb");
  EXPECT_FALSE(info.lock_memory());
}

TEST_F(AdminTest, TellsAndTakesWhoMayUseTheSameHostLane) {
  Start();
  v1::ListNamespacesResponse list;
  ASSERT_TRUE(Call(&v1::Admin::Stub::ListNamespaces, {}, &list).ok());
  EXPECT_TRUE(list.namespaces(0).local_users().everyone());
  EXPECT_TRUE(list.namespaces(0).local_writers().everyone());
  EXPECT_TRUE(list.namespaces(0).tiers().empty());

  v1::CreateNamespaceRequest request;
  request.mutable_spec()->set_name("team");
  request.mutable_spec()->set_quota_bytes(kMiB);
  request.mutable_spec()->mutable_local_users()->add_users(7);
  request.mutable_spec()->mutable_local_users()->add_groups(8);
  request.mutable_spec()->mutable_local_writers()->add_users(9);
  v1::CreateNamespaceResponse made;
  ASSERT_TRUE(Call(&v1::Admin::Stub::CreateNamespace, request, &made).ok());
  const auto ns = *store->FindNamespace("team");
  EXPECT_FALSE(ns->spec().local_users.everyone);
  EXPECT_THAT(ns->spec().local_users.users, ::testing::ElementsAre(7u));
  EXPECT_THAT(ns->spec().local_users.groups, ::testing::ElementsAre(8u));
  EXPECT_THAT(ns->spec().local_writers.users, ::testing::ElementsAre(9u));
  EXPECT_TRUE(ns->spec().writable_by_clients);
  EXPECT_FALSE(made.spec().local_users().everyone());
  EXPECT_THAT(made.spec().local_users().groups(), ::testing::ElementsAre(8u));
}

TEST_F(AdminTest, WithoutWritersUsersSendWhatTheyStore) {
  Start();
  v1::CreateNamespaceRequest request;
  request.mutable_spec()->set_name("sealed");
  request.mutable_spec()->set_quota_bytes(kMiB);
  request.mutable_spec()->mutable_local_writers();
  v1::CreateNamespaceResponse made;
  ASSERT_TRUE(Call(&v1::Admin::Stub::CreateNamespace, request, &made).ok());
  const auto ns = *store->FindNamespace("sealed");
  EXPECT_FALSE(ns->spec().writable_by_clients);
  EXPECT_TRUE(ns->spec().local_writers.everyone) << "of those who are users";
  EXPECT_TRUE(made.spec().has_local_writers());
  EXPECT_FALSE(made.spec().local_writers().everyone());
}

TEST_F(AdminTest, CountsWhatHappened) {
  Start();
  Store("k", Pattern(100'000, 1));
  Load("k");
  Load("none");
  Put(MakePut("k", "again"));
  const v1::NamespaceStats stats = Stats("default");
  EXPECT_EQ(stats.objects(), 1u);
  EXPECT_EQ(stats.visible_bytes(), stats.used_bytes());
  EXPECT_EQ(stats.hits(), 1u);
  EXPECT_EQ(stats.hit_bytes(), 100'000u);
  EXPECT_EQ(stats.misses(), 1u);
  EXPECT_EQ(stats.stored(), 1u);
  EXPECT_EQ(stats.exists(), 1u);
  EXPECT_EQ(stats.uses().misses_cold(), 1u);
  EXPECT_EQ(stats.uses().hits(), 0u) << "all within one request's time";
  EXPECT_EQ(stats.uses().hit_ratio_at_2x_capacity(), 0);
  v1::GetStatsRequest unknown;
  unknown.set_namespace_("none");
  v1::GetStatsResponse response;
  EXPECT_EQ(Call(&v1::Admin::Stub::GetStats, unknown, &response).error_code(),
            StatusCode::NOT_FOUND);
}

TEST_F(AdminTest, ShowsTheSameHostLane) {
  LocalLaneStats lane;
  lane.sessions = 2;
  lane.sessions_ended = {{"closed", 4}, {"revoked", 1}};
  lane.requests = 9;
  lane.quarantined.below_10s = 5;
  lane.lending = {.loans = 31,
                  .bytes = 32,
                  .allocations = 33,
                  .readers = 34,
                  .borrowed = 35,
                  .mapped = 36,
                  .waiting = 37,
                  .longest_wait_ms = 38,
                  .lent = 39,
                  .borrows_found = 40,
                  .borrows_not_found = 41,
                  .borrows_not_opened = 47,
                  .taken_back_at_once = 42,
                  .taken_back_after_wait = 43,
                  .owner_gone = 44,
                  .refused = {{"exists", 45}, {"limit", 46}}};
  hooks.local = {.stats = [lane] { return lane; },
                 .quarantined_in =
                     [](std::string_view name) {
                       return store::AgedBytes{.older = name == "default" ? 6u : 0u};
                     }};
  Start();
  v1::GetStatsResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::GetStats, {}, &response).ok());
  EXPECT_EQ(response.local().sessions(), 2u);
  EXPECT_EQ(response.local().requests(), 9u);
  EXPECT_EQ(response.local().quarantine_age().below_10s_bytes(), 5u);
  ASSERT_EQ(response.local().sessions_ended_size(), 2);
  EXPECT_EQ(response.local().sessions_ended(1).reason(), "revoked");
  EXPECT_EQ(response.local().sessions_ended(1).count(), 1u);
  const v1::LendingStats& lending = response.local().lending();
  EXPECT_EQ((std::vector{lending.loans(), lending.lent_bytes(), lending.allocations(),
                         lending.readers(), lending.borrowed(), lending.mapped(), lending.waiting(),
                         lending.longest_wait_ms(), lending.lent(), lending.borrows_found(),
                         lending.borrows_not_found(), lending.taken_back_at_once(),
                         lending.taken_back_after_wait(), lending.owner_gone(),
                         lending.borrows_not_opened()}),
            (std::vector<uint64_t>{31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 47}));
  ASSERT_EQ(lending.refused_size(), 2);
  EXPECT_EQ(lending.refused(1).reason(), "limit");
  EXPECT_EQ(lending.refused(1).count(), 46u);
  const v1::NamespaceStats stats = Stats("default");
  EXPECT_EQ(stats.quarantine_age().older_bytes(), 6u);
  EXPECT_EQ(stats.limbo_age().older_bytes(), 0u);
  EXPECT_EQ(stats.page_kind(), PageKindName(DefaultNamespace()->page_kind()));
}

TEST_F(AdminTest, ShowsTheTiersOfANamespace) {
  Start();
  ASSERT_TRUE(
      store::AddUnreachableTier(*store, *DefaultNamespace(), "GPU-a", uint64_t{1} << 20).ok());
  DefaultNamespace()->SetDeviceTier({.device = "GPU-b",
                                     .bytes = 5,
                                     .objects = nullptr,
                                     .why_off = absl::UnimplementedError("no such GPU")});
  const v1::NamespaceStats stats = Stats("default");
  ASSERT_EQ(stats.device_tiers_size(), 2);
  EXPECT_EQ(stats.device_tiers(0).tier().device(), "GPU-a");
  EXPECT_EQ(stats.device_tiers(0).tier().why_off(), "");
  EXPECT_EQ(stats.device_tiers(0).objects().name(), "default@GPU-a");
  EXPECT_EQ(stats.device_tiers(0).objects().quota_bytes(), uint64_t{1} << 20);
  EXPECT_EQ(stats.device_tiers(0).objects().page_kind(), "");
  EXPECT_EQ(stats.device_tiers(1).tier().why_off(), "no such GPU");
  EXPECT_FALSE(stats.device_tiers(1).has_objects());
  v1::ListNamespacesResponse listed;
  ASSERT_TRUE(Call(&v1::Admin::Stub::ListNamespaces, {}, &listed).ok());
  ASSERT_EQ(listed.namespaces_size(), 1);
  ASSERT_EQ(listed.namespaces(0).tiers_size(), 2);
  EXPECT_EQ(listed.namespaces(0).tiers(0).quota_bytes(), uint64_t{1} << 20);
  EXPECT_EQ(listed.namespaces(0).tiers(1).quota_bytes(), 5u);
}

TEST_F(AdminTest, MakesNoTiers) {
  Start();
  v1::NamespaceSpec spec;
  spec.set_name("tiers");
  spec.set_quota_bytes(1 << 20);
  spec.add_tiers()->set_device("GPU-a");
  const grpc::Status status = Create(spec);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("configuration"));
}

TEST_F(AdminTest, AddsUpTheHitsOfBothLanes) {
  Start();
  Store("k", Pattern(1000, 1));
  Load("k");
  Load("none");
  const auto page = store::ClientPage::Create(16);
  ASSERT_TRUE(page.ok()) << page.status();
  DefaultNamespace()->AttachPage(*page);
  const shm::SessionPage client((*page)->memory(), (*page)->slot_capacity());
  client.lane(0).hits.store(3);
  client.lane(0).hit_bytes.store(3000);
  client.lane(0).misses.store(2);
  const v1::NamespaceStats stats = Stats("default");
  EXPECT_EQ(stats.hits(), 4u);
  EXPECT_EQ(stats.local_hits(), 3u);
  EXPECT_EQ(stats.misses(), 3u);
  EXPECT_EQ(stats.local_misses(), 2u);
  EXPECT_EQ(stats.hit_bytes(), 4000u);
  EXPECT_EQ(stats.local_hit_bytes(), 3000u);
  EXPECT_EQ(stats.local_sessions(), 1u);
  DefaultNamespace()->DetachPage(*page);
  EXPECT_EQ(Stats("default").local_hits(), 3u) << "they outlive their client";
}

TEST_F(AdminTest, WithoutASameHostLaneThereIsNothingToSayOfIt) {
  Start();
  v1::GetStatsResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::GetStats, {}, &response).ok());
  EXPECT_FALSE(response.has_local());
}

TEST_F(AdminTest, MakesListsAndRemovesNamespaces) {
  Start();
  v1::NamespaceSpec spec;
  spec.set_name("more");
  spec.set_quota_bytes(kMiB);
  spec.set_grpc_open(true);
  v1::NamespaceSpec made;
  ASSERT_TRUE(Create(spec, &made).ok());
  EXPECT_EQ(made.policy(), "auto");
  EXPECT_GT(made.max_objects(), 0u);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::ALREADY_EXISTS);

  v1::ListNamespacesResponse list;
  ASSERT_TRUE(Call(&v1::Admin::Stub::ListNamespaces, {}, &list).ok());
  ASSERT_EQ(list.namespaces_size(), 2);
  EXPECT_EQ(list.namespaces(1).SerializeAsString(), made.SerializeAsString());

  v1::DeleteNamespaceRequest remove;
  remove.set_name("more");
  v1::DeleteNamespaceResponse removed;
  EXPECT_TRUE(Call(&v1::Admin::Stub::DeleteNamespace, remove, &removed).ok());
  EXPECT_EQ(Call(&v1::Admin::Stub::DeleteNamespace, remove, &removed).error_code(),
            StatusCode::NOT_FOUND);
}

TEST_F(AdminTest, RefusesNamespacesThatCannotBe) {
  Start();
  v1::NamespaceSpec spec;
  spec.set_name("Not A Name");
  spec.set_quota_bytes(kMiB);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::INVALID_ARGUMENT);
  spec.set_name("n");
  spec.set_quota_bytes(2 * capacity_bytes);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  spec.set_quota_bytes(0);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::INVALID_ARGUMENT);
  spec.set_live_objects(10);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::INVALID_ARGUMENT);
  spec.set_live_object_bytes(uint64_t{1} << 41);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::INVALID_ARGUMENT);
  spec.set_live_object_bytes(1000);
  spec.set_policy("clairvoyant");
  EXPECT_EQ(Create(spec).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(AdminTest, ANamespaceForNLiveObjectsHoldsThem) {
  Start();
  constexpr int kObjects = 100;
  v1::NamespaceSpec spec;
  spec.set_name("blocks");
  spec.set_grpc_open(true);
  spec.set_live_objects(kObjects);
  spec.set_live_object_bytes(100'000);
  ASSERT_TRUE(Create(spec).ok());
  for (int i = 0; i < kObjects; ++i) {
    v1::PutRequest put = MakePut("block" + std::to_string(i), Pattern(100'000, i));
    put.mutable_scope()->set_namespace_("blocks");
    ASSERT_TRUE(Put(put).ok());
  }
  EXPECT_EQ(Stats("blocks").objects(), static_cast<uint64_t>(kObjects));
  EXPECT_EQ(Stats("blocks").evicted(), 0u);
}

TEST_F(AdminTest, ChangesThePolicyAndKeepsTheObjects) {
  Start();
  for (int i = 0; i < 100; ++i) Store("k" + std::to_string(i), Pattern(1000, i));
  v1::SetPolicyRequest request;
  request.set_namespace_("default");
  v1::SetPolicyResponse response;
  std::string before = Stats("default").policy();
  for (const char* policy : {"s3fifo", "lfu", "arc", "lru", "fifo", "auto"}) {
    request.set_policy(policy);
    ASSERT_TRUE(Call(&v1::Admin::Stub::SetPolicy, request, &response).ok());
    EXPECT_EQ(std::exchange(before, policy), response.previous_policy());
    EXPECT_EQ(Stats("default").policy(), policy);
  }
  v1::ListNamespacesResponse list;
  ASSERT_TRUE(Call(&v1::Admin::Stub::ListNamespaces, {}, &list).ok());
  EXPECT_EQ(list.namespaces(0).policy(), "auto") << "not the one that it was made with";
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Load("k" + std::to_string(i)), Pattern(1000, i)) << i;

  request.set_policy("clairvoyant");
  EXPECT_EQ(Call(&v1::Admin::Stub::SetPolicy, request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
  request.set_policy("lru");
  request.set_namespace_("none");
  EXPECT_EQ(Call(&v1::Admin::Stub::SetPolicy, request, &response).error_code(),
            StatusCode::NOT_FOUND);
  EXPECT_EQ(Stats("default").policy(), "auto");
}

TEST_F(AdminTest, AVirtualClockTakesThePermissionOfTheDaemon) {
  Start();
  v1::NamespaceSpec spec;
  spec.set_name("traced");
  spec.set_quota_bytes(kMiB);
  spec.set_virtual_clock(true);
  EXPECT_EQ(Create(spec).error_code(), StatusCode::FAILED_PRECONDITION);
  v1::AdvanceClockRequest request;
  v1::AdvanceClockResponse response;
  request.set_namespace_("traced");
  EXPECT_EQ(Call(&v1::Admin::Stub::AdvanceClock, request, &response).error_code(),
            StatusCode::NOT_FOUND);
  request.set_namespace_("default");
  EXPECT_EQ(Call(&v1::Admin::Stub::AdvanceClock, request, &response).error_code(),
            StatusCode::FAILED_PRECONDITION);
}

TEST_F(AdminTest, APermittedVirtualClockCanBeAdvanced) {
  hooks.allow_virtual_clock = true;
  Start();
  v1::NamespaceSpec spec, made;
  spec.set_name("traced");
  spec.set_quota_bytes(kMiB);
  spec.set_virtual_clock(true);
  ASSERT_TRUE(Create(spec, &made).ok());
  EXPECT_TRUE(made.virtual_clock());
  v1::AdvanceClockRequest request;
  v1::AdvanceClockResponse response;
  request.set_namespace_("traced");
  request.set_since_start_ms(60'000);
  EXPECT_TRUE(Call(&v1::Admin::Stub::AdvanceClock, request, &response).ok());
}

TEST_F(AdminTest, FlushesByPrefix) {
  Start();
  for (const char* key : {"a/1", "a/2", "b/1"}) Store(key, "v");
  v1::FlushRequest request;
  request.set_namespace_("default");
  request.set_key_prefix("a/");
  v1::FlushResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::Flush, request, &response).ok());
  EXPECT_EQ(response.erased(), 2u);
  EXPECT_EQ(Load("a/1"), std::nullopt);
  EXPECT_EQ(Load("b/1"), "v");
}

TEST_F(AdminTest, PassesOnToTheDaemon) {
  bool drain_requested = false;
  hooks.set_log_level = [](std::string_view level) -> absl::StatusOr<std::string> {
    if (level != "debug") return absl::InvalidArgumentError("levels: debug");
    return "info";
  };
  hooks.request_drain = [&drain_requested] { drain_requested = true; };
  Start();
  v1::SetLogLevelRequest request;
  request.set_level("debug");
  v1::SetLogLevelResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::SetLogLevel, request, &response).ok());
  EXPECT_EQ(response.previous_level(), "info");
  request.set_level("loud");
  EXPECT_EQ(Call(&v1::Admin::Stub::SetLogLevel, request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
  v1::DrainResponse drained;
  ASSERT_TRUE(Call(&v1::Admin::Stub::Drain, {}, &drained).ok());
  EXPECT_TRUE(drain_requested);
}

TEST_F(AdminTest, DrainingRefusesPutsAndSaysSo) {
  Start();
  Store("k", "v");
  for (const char* service : {"", "infercache.v1.Cache", "infercache.v1.Admin"}) {
    EXPECT_EQ(Health(service), 1) << service;
  }
  EXPECT_EQ(Health("no.such.Service"), -StatusCode::NOT_FOUND);
  server->BeginDrain();
  for (const char* service : {"", "infercache.v1.Cache", "infercache.v1.Admin"}) {
    EXPECT_EQ(Health(service), 2) << service;
  }
  const grpc::Status put = Put(MakePut("new", "v"));
  EXPECT_EQ(put.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(put), "DRAINING");
  EXPECT_EQ(PutStream({StreamHeader("new", 1), StreamChunk("v")}).error_code(),
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(Load("k"), "v");
  v1::GetInfoResponse info;
  ASSERT_TRUE(Call(&v1::Admin::Stub::GetInfo, {}, &info).ok());
  EXPECT_TRUE(info.draining());
}

TEST_F(AdminTest, ShutdownLetsCallsFinish) {
  Start();
  grpc::ClientContext context;
  v1::PutStreamResponse response;
  const auto writer = cache->PutStream(&context, &response);
  ASSERT_TRUE(writer->Write(StreamHeader("k", 4)));
  ASSERT_TRUE(Eventually([this] { return DefaultNamespace()->Stats().reservations == 1; }));
  std::thread shutdown([this] { server->Shutdown(absl::Now() + absl::Seconds(10)); });
  ASSERT_TRUE(Eventually([this] { return server->draining(); }));
  EXPECT_TRUE(writer->Write(StreamChunk("1234")));
  writer->WritesDone();
  EXPECT_TRUE(writer->Finish().ok());
  shutdown.join();
  EXPECT_EQ(DefaultNamespace()->Stats().objects, 1u);
}

TEST_F(AdminTest, ShutdownEndsWhatDoesNotFinish) {
  Start();
  grpc::ClientContext context;
  v1::PutStreamResponse response;
  const auto writer = cache->PutStream(&context, &response);
  ASSERT_TRUE(writer->Write(StreamHeader("k", 4)));
  ASSERT_TRUE(Eventually([this] { return DefaultNamespace()->Stats().reservations == 1; }));
  const absl::Time began = absl::Now();
  server->Shutdown(began + absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_EQ(DefaultNamespace()->Stats().reservations, 0u);
}

}  // namespace
}  // namespace infercache::rpc

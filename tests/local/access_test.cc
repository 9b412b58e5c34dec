#include <gmock/gmock.h>
#include <unistd.h>

#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

store::LocalAccess Users(std::vector<uint32_t> users) {
  return {.everyone = false, .users = std::move(users)};
}
store::LocalAccess Groups(std::vector<uint32_t> groups) {
  return {.everyone = false, .groups = std::move(groups)};
}

class LocalRights : public LocalFixture {
 protected:
  void CreateFor(store::LocalAccess users, store::LocalAccess writers) {
    Create(store::NamespaceSpec{.name = "default",
                                .quota_bytes = kMiB,
                                .local_users = std::move(users),
                                .local_writers = std::move(writers)});
    Serve();
  }

  const uint32_t me_ = getuid();
  const uint32_t stranger_ = getuid() + 1;
};

TEST_F(LocalRights, AUserOfTheListMayUseAndWrite) {
  CreateFor(Users({stranger_, me_}), Users({me_}));
  EXPECT_EQ(Open().welcome().put_access(), v1::Welcome::PUT_ACCESS_IN_PLACE);
}

TEST_F(LocalRights, AMemberOfAGroupMayToo) {
  CreateFor(Groups({static_cast<uint32_t>(getgid())}), Groups({static_cast<uint32_t>(getgid())}));
  EXPECT_EQ(Open().welcome().put_access(), v1::Welcome::PUT_ACCESS_IN_PLACE);
}

TEST_F(LocalRights, AStrangerIsRefused) {
  CreateFor(Users({stranger_}), {});
  const absl::Status status = TryOpen({});
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("default"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("local_users"));
}

TEST_F(LocalRights, AnEmptyListIsNobody) {
  CreateFor(Users({}), {});
  EXPECT_EQ(TryOpen({}).code(), absl::StatusCode::kPermissionDenied);
}

// What every session without the right to write is refused.
void ExpectReadsOnly(Worker& worker) {
  EXPECT_EQ(worker.welcome().put_access(), v1::Welcome::PUT_ACCESS_NONE);
  v1::LocalRequest reserve, put, remove;
  *reserve.mutable_reserve()->add_items() = MakeItem("key", 1);
  *put.mutable_put_inline()->add_items()->mutable_object() = MakeItem("key", 0);
  remove.mutable_remove()->add_keys("there");
  for (const v1::LocalRequest& request : {reserve, put, remove}) {
    const absl::Status status = worker.raw().Ask(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << request.ShortDebugString();
  }
  EXPECT_NE(worker.Lookup({"there"})[0].lease(), 0u);
  v1::LocalRequest map;
  map.mutable_map_chunks();
  const auto received = worker.raw().Ask(map);
  ASSERT_TRUE(received.ok());
  EXPECT_FALSE(SharedMapping::Map(received->descriptors.at(0).get(), 4096, true).ok());
}

TEST_F(LocalRights, AUserWhoIsNoWriterReads) {
  CreateFor(Users({me_}), Users({stranger_}));
  store::NamespaceVerbs(*store_->FindNamespace("default")).MustPut("there", "value");
  Worker worker = Open();
  ExpectReadsOnly(worker);
}

TEST_F(LocalRights, WhoAsksForNoRightToWriteHasNone) {
  CreateFor({}, {});
  store::NamespaceVerbs(*store_->FindNamespace("default")).MustPut("there", "value");
  Worker worker = Open({.read_only = true});
  ExpectReadsOnly(worker);
}

}  // namespace
}  // namespace infercache::local

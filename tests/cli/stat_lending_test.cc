// What infercachectl shows of tensors that two workers lend each other, on the fake driver.

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/e2e/daemon_process.h"
#include "tests/fake_cuda/fake_driver.h"
#include "tests/gpu/told.h"

namespace infercache::cli {
namespace {

using fake_cuda::FakeDriver;
using gpu::Told;
using ::testing::ContainsRegex;

TEST(StatLending, SaysWhatIsLentWhoHasItAndWhatWasRefused) {
  const FakeDriver gpus(1, uint64_t{64} << 20);
  const auto daemon = e2e::DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const std::string socket = (*daemon)->socket_path();
  const auto start = [&] {
    return Told::Start(LENDING_WORKER_BINARY, socket, FakeDriver::Uuid(0));
  };
  const auto stat = [&](const std::string& format) {
    const CtlResult result = RunCtl({"--endpoint", "unix:" + socket, "stat", "-o", format});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  Told owner = start(), reader = start();
  EXPECT_EQ(owner.Do("alloc legacy"), "ok");
  for (const char* key : {"a", "b", "c"}) {
    EXPECT_EQ(owner.Do(std::string("lend ") + key), "lent");
  }
  EXPECT_EQ(reader.Do("borrow a"), "hit");
  EXPECT_EQ(reader.Do("borrow none"), "miss");
  EXPECT_EQ(owner.Do("lend a"), "ALREADY_EXISTS");
  EXPECT_EQ(owner.Do("take_back b 30000"), "OK");
  EXPECT_EQ(owner.Do("take_back a 50"), "DEADLINE_EXCEEDED");

  const auto lending = nlohmann::json::parse(stat("json"))["local"]["lending"];
  EXPECT_EQ(lending["loans"], 2);
  EXPECT_EQ(lending["lent_bytes"], 128);
  EXPECT_EQ(lending["readers"], 1);
  EXPECT_EQ(lending["borrowed"], 1);
  EXPECT_EQ(lending["waiting"], 1);
  EXPECT_GE(lending["longest_wait_ms"], 50);
  EXPECT_EQ(lending["borrows_found"], 1);
  EXPECT_EQ(lending["borrows_not_found"], 1);
  EXPECT_EQ(lending["taken_back_at_once"], 1);
  EXPECT_EQ(lending["refused"][1], (nlohmann::json{{"reason", "exists"}, {"count", 1}}));

  const std::string table = stat("table");
  EXPECT_THAT(table, ContainsRegex("\nlocal.lending.loans +2\n"));
  EXPECT_THAT(table, ContainsRegex("\nlocal.lending.lent_bytes +128 B\n"));
  EXPECT_THAT(table, ContainsRegex("\nlocal.lending.refused +access 0, exists 1, gone 0, "));
}

}  // namespace
}  // namespace infercache::cli

// What infercachectl shows of tiers in GPUs, on the fake driver.

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/e2e/daemon_process.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::cli {
namespace {

using fake_cuda::FakeDriver;
using ::testing::HasSubstr;
using ::testing::Not;

// A daemon with a tier on the first of two GPUs, and one on a GPU that is not there.
class StatTiers : public ::testing::Test {
 protected:
  static constexpr char kMissing[] = "GPU-00000000-0000-0000-0000-000000000001";

  void SetUp() override {
    auto daemon = e2e::DaemonProcess::Start(
        {.arguments = {"--default-devices=" + Gpu() + "=16MiB," + kMissing + "=4MiB"},
         .config = {},
         .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                         {"FAKE_CUDA_STATE", gpus_.path()}}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  static std::string Gpu() { return FakeDriver::Uuid(0); }
  std::string Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--endpoint", "unix:" + daemon_->socket_path()});
    const CtlResult result = RunCtl(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  FakeDriver gpus_{2, uint64_t{64} << 20};
  std::unique_ptr<e2e::DaemonProcess> daemon_;
};

TEST_F(StatTiers, InTables) {
  const std::string table = Run({"stat"});
  EXPECT_THAT(table, HasSubstr("\ndefault@" + Gpu()));
  EXPECT_THAT(table, HasSubstr(std::string("default@") + kMissing + "  off: there is no GPU"));
  EXPECT_THAT(Run({"stat", "-i", "0.01", "-n", "1"}), HasSubstr("\ndefault@" + Gpu()));
  const std::string all = Run({"stat", "--namespace", "default"});
  EXPECT_THAT(all, HasSubstr("default@" + Gpu()));
  EXPECT_THAT(all, HasSubstr(kMissing));
  const std::string namespaces = Run({"namespace", "list"});
  EXPECT_THAT(namespaces, HasSubstr(Gpu() + "=16 MiB " + kMissing + "=off"));
}

TEST_F(StatTiers, InJson) {
  const auto stat = nlohmann::json::parse(Run({"stat", "-o", "json"}));
  const auto& tiers = stat["namespaces"][0]["device_tiers"];
  ASSERT_EQ(tiers.size(), 2u);
  EXPECT_EQ(tiers[0]["tier"]["device"], Gpu());
  EXPECT_EQ(tiers[0]["objects"]["quota_bytes"], 16 << 20);
  EXPECT_TRUE(tiers[1]["objects"].is_null());
  EXPECT_THAT(tiers[1]["tier"]["why_off"].get<std::string>(), HasSubstr(kMissing));
}

}  // namespace
}  // namespace infercache::cli

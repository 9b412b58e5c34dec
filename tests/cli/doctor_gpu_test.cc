// What doctor makes of GPUs, on the fake driver.

#include "client/cli/doctor_gpu.h"

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/cli/finding_matcher.h"
#include "tests/e2e/daemon_process.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::cli {
namespace {

using fake_cuda::FakeDriver;
using testing::AllOf;
using testing::HasSubstr;
using DoctorJson = nlohmann::json;

class DoctorGpu : public testing::Test {
 protected:
  // By check, the findings in order.
  std::map<std::string, std::vector<DoctorJson>> Doctor(const std::string& endpoint,
                                                        const std::string& deadline = "30s") {
    const CtlResult result =
        RunCtl({"doctor", "--endpoint", endpoint, "--deadline", deadline, "-o", "json"}, "",
               {"LD_LIBRARY_PATH=" FAKE_CUDA_LIBRARY_DIR, "FAKE_CUDA_STATE=" + gpus_.path()});
    std::map<std::string, std::vector<DoctorJson>> by_check;
    const DoctorJson report = DoctorJson::parse(result.out);
    for (const DoctorJson& finding : report["findings"]) {
      by_check[finding["check"]].push_back(finding);
    }
    return by_check;
  }

  FakeDriver gpus_{2, uint64_t{64} << 20};
};

TEST_F(DoctorGpu, ProvesThatMemoryIsSharedAndFindsTiers) {
  auto daemon = e2e::DaemonProcess::Start(
      {.arguments = {"--default-devices=" + FakeDriver::Uuid(1) + "=16MiB"},
       .config = {},
       .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                       {"FAKE_CUDA_STATE", gpus_.path()}}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  auto found = Doctor("unix:" + (*daemon)->socket_path());
  ASSERT_EQ(found["gpu_driver"].size(), 1u);
  EXPECT_THAT(found["gpu_driver"][0]["found"].get<std::string>(), HasSubstr("2 GPUs"));
  ASSERT_EQ(found["gpu"].size(), 2u);
  for (uint32_t i = 0; i < 2; ++i) {
    EXPECT_EQ(found["gpu"][i]["level"], "ok");
    EXPECT_THAT(found["gpu"][i]["found"].get<std::string>(), HasSubstr(FakeDriver::Uuid(i)));
    EXPECT_EQ(gpus_.UseOf(i).contexts, 0u);
  }
  ASSERT_EQ(found["gpu_tier"].size(), 2u);
  EXPECT_THAT(found["gpu_tier"][0]["found"].get<std::string>(), HasSubstr("has no tier"));
  EXPECT_THAT(found["gpu_tier"][1]["found"].get<std::string>(), HasSubstr("has 16 MiB on"));
  EXPECT_EQ(gpus_.calls().imports.load(), 2u) << "each by its child";
  EXPECT_EQ(gpus_.calls().ipc_opens.load(), 2u);
}

TEST_F(DoctorGpu, SaysWhichWayOfSharingDoesNotWork) {
  gpus_.faults().refuse_imports.store(2);  // of descriptors alone
  DoctorJson finding = Doctor("unix:/nowhere")["gpu"].at(0);
  EXPECT_EQ(finding["level"], "warn");
  EXPECT_THAT(finding["found"].get<std::string>(),
              AllOf(HasSubstr("can have no tier"),
                    HasSubstr("cuMemImportFromShareableHandle: CUDA_ERROR_NOT_PERMITTED")))
      << "the child's words";

  gpus_.faults().refuse_imports.store(0);
  gpus_.faults().same_pid.store(1);  // so that no process opens a handle
  finding = Doctor("unix:/nowhere")["gpu"].at(0);
  EXPECT_EQ(finding["level"], "warn");
  EXPECT_THAT(
      finding["found"].get<std::string>(),
      AllOf(HasSubstr("memory of cudaMalloc cannot be shared"), HasSubstr("cuIpcOpenMemHandle")));

  gpus_.faults().refuse_imports.store(1);
  finding = Doctor("unix:/nowhere")["gpu"].at(0);
  EXPECT_EQ(finding["level"], "warn");
  EXPECT_THAT(finding["found"].get<std::string>(),
              AllOf(HasSubstr("cuMemImportFromShareableHandle"), HasSubstr("cuIpcOpenMemHandle")));
}

// doctor hung with it, and could not be ended.
TEST_F(DoctorGpu, AGpuThatHangsIsGivenUp) {
  gpus_.StickStreams();
  const auto found = Doctor("unix:/nowhere", "500ms")["gpu"];
  ASSERT_EQ(found.size(), 2u);
  for (const DoctorJson& finding : found) {
    EXPECT_EQ(finding["level"], "warn");
    EXPECT_THAT(finding["found"].get<std::string>(), HasSubstr("it came to no end in 500ms"));
  }
  EXPECT_EQ(gpus_.UseOf(0).contexts + gpus_.UseOf(1).contexts, 0u) << "nobody is left";
}

TEST_F(DoctorGpu, AGpuThatIsInUseIsNoGpuThatCannotShare) {
  gpus_.faults().creates_to_fail.store(-1);
  const DoctorJson finding = Doctor("unix:/nowhere")["gpu"].at(0);
  EXPECT_EQ(finding["level"], "warn");
  EXPECT_THAT(finding["found"].get<std::string>(),
              HasSubstr("could not be tested, its memory is full"));
}

TEST_F(DoctorGpu, ATierThatIsOffIsAWarningThatSaysWhy) {
  EXPECT_THAT(GpuTierFinding("GPU-1", "kv", absl::UnimplementedError("off: it broke")),
              Is("gpu_tier", Level::kWarn, "it broke"));
  const Finding rights = GpuTierFinding("GPU-1", "kv", absl::PermissionDeniedError("uid 7"));
  EXPECT_THAT(rights, Is("gpu_tier", Level::kWarn, "uid 7"));
  EXPECT_THAT(rights.advice, HasSubstr("local_writers of kv"));
  EXPECT_THAT(GpuTierFinding("GPU-1", "kv", v1::Welcome()),
              Is("gpu_tier", Level::kWarn, "knows nothing of GPUs"));
}

// The one finding about a driver that is not there.
std::string SaidOfTheDriver(const std::vector<std::string>& environment) {
  const CtlResult result =
      RunCtl({"doctor", "--endpoint", "unix:/nowhere", "-o", "json"}, "", environment);
  std::string said;
  const DoctorJson report = DoctorJson::parse(result.out);
  for (const DoctorJson& finding : report["findings"]) {
    if (finding["check"] != "gpu_driver") continue;
    said += finding["found"].get<std::string>();
    EXPECT_EQ(finding["level"], "ok");
  }
  return said;
}

TEST_F(DoctorGpu, WithoutADriverNothingIsWrong) {
  const FakeDriver none(0, 0);
  EXPECT_THAT(
      SaidOfTheDriver({"LD_LIBRARY_PATH=" FAKE_CUDA_LIBRARY_DIR, "FAKE_CUDA_STATE=" + none.path()}),
      HasSubstr("no CUDA driver"));
}

TEST_F(DoctorGpu, WithoutTheDriversLibraryNothingIsWrong) {
  if (std::system("PATH=$PATH:/sbin ldconfig -p | grep -q 'libcuda[.]so[.]1'") == 0) {
    GTEST_SKIP() << "this machine has a driver of its own";
  }
  EXPECT_THAT(SaidOfTheDriver({"LD_LIBRARY_PATH="}),
              HasSubstr("libcuda.so.1: cannot open shared object file"));
}

}  // namespace
}  // namespace infercache::cli

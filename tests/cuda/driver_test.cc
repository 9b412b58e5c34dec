#include "common/cuda/driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <string>

#include "tests/fake_cuda/fake_driver.h"

namespace infercache::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// In a process of its own: what a driver sees is settled when it is first used.
template <class F>
int InChild(F f) {
  const pid_t child = fork();
  if (child == 0) _exit(f());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Driver, SaysWhyThereIsNone) {
  const auto driver = Driver::Load("libcuda-that-is-not-there.so.1");
  EXPECT_EQ(driver.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(driver.status().message(), HasSubstr("libcuda-that-is-not-there.so.1"));
  EXPECT_THAT(driver.status().message(), HasSubstr("cannot open shared object file"));
}

TEST(Driver, SaysThatALibraryIsNoDriver) {
  const auto driver = Driver::Load("libc.so.6");
  EXPECT_EQ(driver.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(driver.status().message(), HasSubstr("cuGetProcAddress"));
}

TEST(Driver, OfBeforeCuda12IsLookedUpByTheOldForm) {
  EXPECT_EQ(InChild([] {
              const fake_cuda::FakeDriver one(1, 64 << 20);
              const auto driver = Driver::Load(OLD_CUDA_11040);
              if (!driver.ok()) return 1;
              const auto all = ListDevices(**driver);
              return all.ok() && all->size() == 1 ? 0 : 2;
            }),
            0);
}

TEST(Driver, SaysWhatATooOldOneLacks) {
  const auto driver = Driver::Load(OLD_CUDA_11020);
  EXPECT_EQ(driver.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(driver.status().message(), HasSubstr("it has no cuDeviceGetUuid of version 11040"));
}

TEST(Driver, SaysThatThereIsNoDevice) {
  EXPECT_EQ(InChild([] {
              const fake_cuda::FakeDriver none(0, 0);
              const auto driver = Driver::Load();
              const bool says =
                  driver.status().code() == absl::StatusCode::kUnimplemented &&
                  std::string(driver.status().message()).find("CUDA_ERROR_NO_DEVICE") !=
                      std::string::npos;
              return says ? 0 : 1;
            }),
            0);
}

// On a machine that boots. The same process may ask again.
TEST(Driver, ThatIsNotReadyYetIsNotOneThatIsMissing) {
  EXPECT_EQ(InChild([] {
              fake_cuda::FakeDriver one(1, 64 << 20);
              one.faults().inits_not_ready.store(1);
              const absl::Status status = Driver::Load().status();
              if (status.code() != absl::StatusCode::kUnavailable) return 1;
              if (std::string(status.message()).find("CUDA_ERROR_SYSTEM_NOT_READY (802)") ==
                  std::string::npos) {
                return 2;
              }
              return Driver::Load().ok() ? 0 : 3;
            }),
            0);
}

TEST(Driver, FindsDevicesByUuid) {
  EXPECT_EQ(InChild([] {
              const fake_cuda::FakeDriver two(2, 64 << 20);
              const auto driver = Driver::Load();
              if (!driver.ok()) return 1;
              const auto all = ListDevices(**driver);
              if (!all.ok() || all->size() != 2 || all->at(0).uuid == all->at(1).uuid) return 2;
              const auto second = FindDevice(**driver, fake_cuda::FakeDriver::Uuid(1));
              if (!second.ok() || second->ordinal != 1 || !second->shareable) return 3;
              if (second->total_bytes != 64 << 20) return 4;
              // With two of them there is no such thing as the one.
              const auto one = FindDevice(**driver, "auto");
              if (one.status().code() != absl::StatusCode::kNotFound) return 5;
              const auto none = FindDevice(**driver, "GPU-00000000-0000-0000-0000-000000000000");
              if (none.status().code() != absl::StatusCode::kNotFound) return 6;
              return std::string(none.status().message()).find(all->at(1).uuid) != std::string::npos
                         ? 0
                         : 7;
            }),
            0);
}

TEST(Driver, DoesNotSurviveAFork) {
  EXPECT_EQ(InChild([] {
              const fake_cuda::FakeDriver one(1, 64 << 20);
              const auto driver = Driver::Load();
              if (!driver.ok()) return 1;
              return InChild([&driver] { return ListDevices(**driver).ok() ? 1 : 0; });
            }),
            0);
}

TEST(Driver, NamesTheCallAndTheError) {
  EXPECT_EQ(InChild([] {
              const fake_cuda::FakeDriver one(1, 64 << 20);
              const auto driver = Driver::Load();
              if (!driver.ok()) return 1;
              const std::map<Result, absl::StatusCode> codes = {
                  {kSuccess, absl::StatusCode::kOk},
                  {kOutOfMemory, absl::StatusCode::kResourceExhausted},
                  {kInvalidValue, absl::StatusCode::kInvalidArgument},
                  {kNotSupported, absl::StatusCode::kUnimplemented},
                  {kNotReady, absl::StatusCode::kUnavailable},
                  {kIllegalAddress, absl::StatusCode::kInternal},
                  {12345, absl::StatusCode::kInternal}};
              for (const auto& [result, code] : codes) {
                if ((*driver)->Check(result, "cuX").code() != code) return 2;
              }
              if ((*driver)->Check(kOutOfMemory, "cuX").message() !=
                  "cuX: CUDA_ERROR_OUT_OF_MEMORY (2)") {
                return 3;
              }
              return (*driver)->Check(12345, "cuX").message() == "cuX: unknown error (12345)" ? 0
                                                                                              : 4;
            }),
            0);
}

TEST(Uuid, IsWrittenAndReadAlike) {
  const std::string text = "GPU-0123abcd-4567-89ef-0000-ffeeddccbbaa";
  const auto uuid = ParseUuid(text);
  ASSERT_TRUE(uuid.ok());
  EXPECT_EQ(FormatUuid(*uuid), text);
  EXPECT_EQ(FormatUuid(*ParseUuid("MIG-0123ABCD-4567-89EF-0000-FFEEDDCCBBAA")), text);
}

TEST(Uuid, RefusesWhatIsNone) {
  for (const char* text :
       {"", "0", "GPU-", "0123abcd-4567-89ef-0000-ffeeddccbbaa",
        "GPU-0123abcd-4567-89ef-0000-ffeeddccbba", "GPU-0123abcd-4567-89ef-0000-ffeeddccbbaaa",
        "GPU-0123abcd-4567-89ef-0000_ffeeddccbbaa", "GPU-0123abcd-4567-89ef-0000-ffeeddccbbag"}) {
    EXPECT_EQ(ParseUuid(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace infercache::cuda

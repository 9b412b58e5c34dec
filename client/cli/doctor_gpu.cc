#include "client/cli/doctor_gpu.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/time/clock.h"
#include "common/cuda/context.h"
#include "common/cuda/driver.h"
#include "common/cuda/memory.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr size_t kPatternBytes = 4096;
constexpr absl::Duration kPatience = absl::Seconds(20);
constexpr int kChildsFd = 9;

std::vector<char> Pattern() {
  std::vector<char> bytes(kPatternBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + i / 256);
  return bytes;
}

// Maps the memory and copies the pattern in, or out and compares.
absl::Status CopyPattern(const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device,
                         const cuda::Allocation& memory, bool in) {
  ASSIGN_OR_RETURN(const auto context, cuda::PrimaryContext::Retain(driver, device));
  const cuda::CurrentContext current(*context);
  RETURN_IF_ERROR(current.status());
  ASSIGN_OR_RETURN(
      const cuda::Mapping mapping,
      cuda::Mapping::Map(memory, device,
                         in ? cuda::Mapping::Access::kReadWrite : cuda::Mapping::Access::kRead));
  const std::vector<char> pattern = Pattern();
  std::vector<char> bytes = in ? pattern : std::vector<char>(kPatternBytes);
  const cuda::Api& api = driver->api();
  RETURN_IF_ERROR(in ? driver->Check(api.memcpy_htod_async(mapping.address(), bytes.data(),
                                                           bytes.size(), nullptr),
                                     "cuMemcpyHtoDAsync")
                     : driver->Check(api.memcpy_dtoh_async(bytes.data(), mapping.address(),
                                                           bytes.size(), nullptr),
                                     "cuMemcpyDtoHAsync"));
  RETURN_IF_ERROR(driver->Check(api.stream_synchronize(nullptr), "cuStreamSynchronize"));
  return bytes == pattern ? absl::OkStatus() : absl::DataLossError("other bytes than were written");
}

// How a child says that the GPU is full.
constexpr int kChildFoundItFull = 3;

// Runs this program as the child, and returns what it says; OK if it exits with 0.
absl::Status RunChild(const UniqueFd& memory, const std::string& uuid, uint64_t bytes) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  const std::string size = std::to_string(bytes), fd = std::to_string(kChildsFd);
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork");
  if (child == 0) {
    if (dup2(memory.get(), kChildsFd) >= 0 && dup2(in.get(), STDOUT_FILENO) >= 0) {
      execl("/proc/self/exe", "infercachectl", kGpuSelfTest, fd.c_str(), uuid.c_str(), size.c_str(),
            nullptr);
    }
    _exit(127);
  }
  in.Reset();
  std::string said;
  const absl::Time deadline = absl::Now() + kPatience;
  bool ended = false;
  while (!ended && absl::Now() < deadline) {
    pollfd wait = {out.get(), POLLIN, 0};
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now()) + 1;
    if (poll(&wait, 1, static_cast<int>(left_ms)) <= 0) continue;
    char buffer[512];
    const ssize_t n = read(out.get(), buffer, sizeof buffer);
    ended = n == 0 || (n < 0 && errno != EINTR);
    if (n > 0) said.append(buffer, static_cast<size_t>(n));
  }
  if (!ended) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended) return absl::DeadlineExceededError("the child process came to no end");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  if (WIFEXITED(status) && WEXITSTATUS(status) == kChildFoundItFull) {
    return absl::ResourceExhaustedError(said);
  }
  return absl::InternalError(said.empty() ? "the child process crashed" : said);
}

absl::Status SelfTest(const std::shared_ptr<const cuda::Driver>& driver,
                      const cuda::DeviceInfo& device) {
  if (!device.shareable) return absl::UnimplementedError("it exports no memory as descriptors");
  ASSIGN_OR_RETURN(const uint64_t bytes, cuda::Allocation::Granularity(*driver, device.ordinal));
  ASSIGN_OR_RETURN(const cuda::Allocation memory,
                   cuda::Allocation::Create(driver, device.ordinal, bytes));
  RETURN_IF_ERROR(CopyPattern(driver, device.ordinal, memory, /*in=*/true));
  ASSIGN_OR_RETURN(const UniqueFd fd, memory.Export());
  return RunChild(fd, device.uuid, bytes);
}

Finding GpuFinding(const cuda::DeviceInfo& device, const absl::Status& tested) {
  const std::string which =
      fmt::format("{} ({}, {} MiB)", device.uuid, device.name, device.total_bytes >> 20);
  if (tested.ok()) {
    return {"gpu", Level::kOk, fmt::format("{}: another process reads what this one wrote", which)};
  }
  const std::string why(tested.message());
  // A tier is taken from the GPU once, while this asks for memory at a time when it may be in use.
  if (absl::IsResourceExhausted(tested)) {
    return {"gpu", Level::kWarn,
            fmt::format("{}: could not be tested, its memory is full: {}", which, why),
            "run doctor again when less of the GPU is in use"};
  }
  return {"gpu", Level::kWarn, fmt::format("{}: memory cannot be shared: {}", which, why),
          "workers on this GPU copy from host memory; docs/gpu.md"};
}

absl::Status TestAsChild(int fd, const std::string& uuid, uint64_t bytes) {
  ASSIGN_OR_RETURN(const auto driver, cuda::Driver::Load());
  ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::FindDevice(*driver, uuid));
  ASSIGN_OR_RETURN(const cuda::Allocation memory,
                   cuda::Allocation::Import(driver, UniqueFd(fd), bytes));
  return CopyPattern(driver, device.ordinal, memory, /*in=*/false);
}

}  // namespace

std::vector<Gpu> CheckGpus(std::vector<Finding>* findings) {
  const auto driver = cuda::Driver::Load();
  if (!driver.ok()) {
    findings->push_back(
        {"gpu_driver", Level::kOk,
         fmt::format("{}; GPUs are not used", std::string(driver.status().message()))});
    return {};
  }
  const auto devices = cuda::ListDevices(**driver);
  if (!devices.ok()) {
    findings->push_back({"gpu_driver", Level::kWarn, std::string(devices.status().message()),
                         "see the driver's own tools, such as nvidia-smi"});
    return {};
  }
  findings->push_back({"gpu_driver", Level::kOk,
                       fmt::format("CUDA {}.{}, {} GPUs", (*driver)->version() / 1000,
                                   (*driver)->version() % 1000 / 10, devices->size())});
  std::vector<Gpu> gpus;
  for (const cuda::DeviceInfo& device : *devices) {
    findings->push_back(GpuFinding(device, SelfTest(*driver, device)));
    gpus.push_back({device.uuid});
  }
  return gpus;
}

Finding GpuTierFinding(const std::string& device, const std::string& namespace_name,
                       const absl::StatusOr<v1::Welcome>& welcome) {
  if (welcome.ok() && welcome->device() == device) {
    return {"gpu_tier", Level::kOk,
            fmt::format("namespace {} has {} MiB on {}", namespace_name,
                        (welcome->chunk_count() * welcome->chunk_bytes()) >> 20, device)};
  }
  if (welcome.ok()) {
    return {"gpu_tier", Level::kWarn, "the daemon knows nothing of GPUs",
            "use a daemon of this program's version"};
  }
  const std::string said(welcome.status().message());
  if (absl::IsNotFound(welcome.status())) return {"gpu_tier", Level::kOk, said};
  const bool rights = absl::IsPermissionDenied(welcome.status());
  return {"gpu_tier", Level::kWarn, said,
          rights ? fmt::format("add this user to local_writers of {}", namespace_name)
                 : "the daemon's log says it too: device tier is off"};
}

int RunGpuSelfTest(const char* fd, const char* uuid, const char* bytes) {
  const absl::Status tested = TestAsChild(std::atoi(fd), uuid, std::strtoull(bytes, nullptr, 10));
  if (tested.ok()) return 0;
  std::printf("%s", std::string(tested.message()).c_str());
  return absl::IsResourceExhausted(tested) ? kChildFoundItFull : 1;
}

}  // namespace infercache::cli

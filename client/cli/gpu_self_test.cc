#include "client/cli/gpu_self_test.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "common/cuda/context.h"
#include "common/cuda/ipc.h"
#include "common/cuda/memory.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace infercache::cli {
namespace {

constexpr size_t kPatternBytes = 4096;
constexpr absl::Duration kPatience = absl::Seconds(20);
// How a child says that the GPU is full.
constexpr int kChildFoundItFull = 3;

std::vector<char> Pattern() {
  std::vector<char> bytes(kPatternBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + i / 256);
  return bytes;
}

absl::Status WritePattern(const cuda::PrimaryContext& context, cuda::DevicePointer to) {
  const cuda::CurrentContext current(context);
  RETURN_IF_ERROR(current.status());
  const cuda::Driver& driver = context.driver();
  const std::vector<char> pattern = Pattern();
  RETURN_IF_ERROR(
      driver.Check(driver.api().memcpy_htod_async(to, pattern.data(), pattern.size(), nullptr),
                   "cuMemcpyHtoDAsync"));
  return driver.Check(driver.api().stream_synchronize(nullptr), "cuStreamSynchronize");
}

absl::Status ReadPattern(const cuda::PrimaryContext& context, cuda::DevicePointer from) {
  const cuda::CurrentContext current(context);
  RETURN_IF_ERROR(current.status());
  const cuda::Driver& driver = context.driver();
  std::vector<char> bytes(kPatternBytes);
  RETURN_IF_ERROR(
      driver.Check(driver.api().memcpy_dtoh_async(bytes.data(), from, bytes.size(), nullptr),
                   "cuMemcpyDtoHAsync"));
  RETURN_IF_ERROR(driver.Check(driver.api().stream_synchronize(nullptr), "cuStreamSynchronize"));
  return bytes == Pattern() ? absl::OkStatus()
                            : absl::DataLossError("other bytes than were written");
}

// Of cuMemAlloc, which is cudaMalloc's.
class LegacyMemory {
 public:
  static absl::StatusOr<LegacyMemory> Allocate(std::shared_ptr<const cuda::PrimaryContext> context,
                                               uint64_t bytes) {
    const cuda::CurrentContext current(*context);
    RETURN_IF_ERROR(current.status());
    const cuda::Driver& driver = context->driver();
    cuda::DevicePointer address = 0;
    RETURN_IF_ERROR(driver.Check(driver.api().mem_alloc(&address, bytes), "cuMemAlloc"));
    return LegacyMemory(std::move(context), address);
  }
  LegacyMemory(LegacyMemory&& other) noexcept = default;
  ~LegacyMemory() {
    if (context_ == nullptr) return;
    const cuda::CurrentContext current(*context_);
    (void)context_->driver().api().mem_free(address_);
  }

  cuda::DevicePointer address() const { return address_; }

 private:
  LegacyMemory(std::shared_ptr<const cuda::PrimaryContext> context, cuda::DevicePointer address)
      : context_(std::move(context)), address_(address) {}

  std::shared_ptr<const cuda::PrimaryContext> context_;  // null = moved from
  cuda::DevicePointer address_;
};

// Runs this program as the child, and returns what it says; OK if it exits with 0. `descriptor`, if
// there is one, is open there too.
absl::Status RunChild(const UniqueFd& descriptor, const std::string& memory,
                      const std::string& uuid, uint64_t bytes) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  const std::string size = std::to_string(bytes);
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork");
  if (child == 0) {
    const bool given = !descriptor.valid() || fcntl(descriptor.get(), F_SETFD, 0) == 0;
    if (given && dup2(in.get(), STDOUT_FILENO) >= 0) {
      execl("/proc/self/exe", "infercachectl", kGpuSelfTestChild, memory.c_str(), uuid.c_str(),
            size.c_str(), nullptr);
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

absl::Status TestDescriptors(const std::shared_ptr<const cuda::PrimaryContext>& context,
                             const cuda::DeviceInfo& device) {
  if (!device.shareable) return absl::UnimplementedError("it exports no memory as descriptors");
  ASSIGN_OR_RETURN(const uint64_t bytes,
                   cuda::Allocation::Granularity(context->driver(), device.ordinal));
  ASSIGN_OR_RETURN(const cuda::Allocation memory,
                   cuda::Allocation::Create(context->shared_driver(), device.ordinal, bytes));
  {
    const cuda::CurrentContext current(*context);
    RETURN_IF_ERROR(current.status());
    ASSIGN_OR_RETURN(const cuda::Mapping mapping,
                     cuda::Mapping::Map(memory, device.ordinal, cuda::Mapping::Access::kReadWrite));
    RETURN_IF_ERROR(WritePattern(*context, mapping.address()));
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, memory.Export());
  return RunChild(fd, std::to_string(fd.get()), device.uuid, bytes);
}

absl::Status TestHandles(const std::shared_ptr<const cuda::PrimaryContext>& context,
                         const cuda::DeviceInfo& device) {
  // Less would be a part of a larger allocation of the driver's.
  constexpr uint64_t kBytes = uint64_t{2} << 20;
  ASSIGN_OR_RETURN(const LegacyMemory memory, LegacyMemory::Allocate(context, kBytes));
  RETURN_IF_ERROR(WritePattern(*context, memory.address()));
  ASSIGN_OR_RETURN(const cuda::ExportedMemory exported,
                   cuda::ExportMemory(*context, {memory.address(), kBytes}));
  const absl::string_view handle(reinterpret_cast<const char*>(&exported.handle),
                                 sizeof exported.handle);
  return RunChild(UniqueFd(), absl::BytesToHexString(handle), device.uuid, kBytes);
}

absl::Status TestAsChild(std::string_view memory, const std::string& uuid, uint64_t bytes) {
  ASSIGN_OR_RETURN(const auto driver, cuda::Driver::Load());
  ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::FindDevice(*driver, uuid));
  ASSIGN_OR_RETURN(const auto context, cuda::PrimaryContext::Retain(driver, device.ordinal));
  cuda::IpcHandle handle = {};
  if (memory.size() == 2 * sizeof handle) {
    const std::string raw = absl::HexStringToBytes({memory.data(), memory.size()});
    std::memcpy(&handle, raw.data(), sizeof handle);
    bool never = false;
    ASSIGN_OR_RETURN(
        const cuda::IpcMapping mapping,
        cuda::IpcMapping::Open(context, handle, bytes,
                               {.exporter_pid = static_cast<uint64_t>(getppid())}, &never));
    return ReadPattern(*context, mapping.address());
  }
  int fd = -1;
  if (!absl::SimpleAtoi(absl::string_view(memory.data(), memory.size()), &fd)) {
    return absl::InvalidArgumentError("neither a descriptor nor a handle");
  }
  ASSIGN_OR_RETURN(const cuda::Allocation allocation,
                   cuda::Allocation::Import(driver, UniqueFd(fd), bytes));
  const cuda::CurrentContext current(*context);
  RETURN_IF_ERROR(current.status());
  ASSIGN_OR_RETURN(const cuda::Mapping mapping,
                   cuda::Mapping::Map(allocation, device.ordinal, cuda::Mapping::Access::kRead));
  return ReadPattern(*context, mapping.address());
}

}  // namespace

GpuSelfTest TestGpu(const std::shared_ptr<const cuda::Driver>& driver,
                    const cuda::DeviceInfo& device) {
  const auto context = cuda::PrimaryContext::Retain(driver, device.ordinal);
  if (!context.ok()) return {context.status(), context.status()};
  return {TestDescriptors(*context, device), TestHandles(*context, device)};
}

int RunGpuSelfTestChild(const char* memory, const char* uuid, const char* bytes) {
  uint64_t size = 0;
  const absl::Status tested = absl::SimpleAtoi(bytes, &size)
                                  ? TestAsChild(memory, uuid, size)
                                  : absl::InvalidArgumentError("the size is no number");
  if (tested.ok()) return 0;
  std::printf("%s", std::string(tested.message()).c_str());
  return absl::IsResourceExhausted(tested) ? kChildFoundItFull : 1;
}

}  // namespace infercache::cli

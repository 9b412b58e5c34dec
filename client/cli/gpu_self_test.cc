#include "client/cli/gpu_self_test.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
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
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/cuda/context.h"
#include "common/cuda/ipc.h"
#include "common/cuda/memory.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace infercache::cli {
namespace {

constexpr size_t kPatternBytes = 4096;
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

// This program as a child, with this process's end for its own.
class Child {
 public:
  // `descriptor`, if there is one, is open there too.
  static absl::StatusOr<Child> Start(std::vector<std::string> arguments,
                                     const UniqueFd& descriptor) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
    UniqueFd out(ends[0]), in(ends[1]);
    arguments.insert(arguments.begin(), {"infercachectl", kGpuSelfTestChild});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
    if (pid == 0) {
      const bool given = !descriptor.valid() || fcntl(descriptor.get(), F_SETFD, 0) == 0;
      if (given && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && dup2(in.get(), STDOUT_FILENO) >= 0) {
        execv("/proc/self/exe", argv.data());
      }
      _exit(127);
    }
    return Child(pid, std::move(out));
  }

  // What it says until it ends. False: it does not by `deadline`, and is killed.
  bool Await(absl::Time deadline, std::string* said) {
    bool silent = false;
    while (!silent && absl::Now() < deadline) {
      pollfd wait = {out_.get(), POLLIN, 0};
      const absl::Duration left = std::min(deadline - absl::Now(), absl::Minutes(1));
      if (poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) <= 0) continue;
      char buffer[512];
      const ssize_t n = read(out_.get(), buffer, sizeof buffer);
      silent = n == 0 || (n < 0 && errno != EINTR);
      if (n > 0) said->append(buffer, static_cast<size_t>(n));
    }
    if (Reap(deadline)) return true;
    kill(pid_, SIGKILL);
    // One that does not die, in the driver, is left to the system.
    (void)Reap(absl::Now() + absl::Seconds(1));
    return false;
  }
  // REQUIRES: it has ended. -1: not by itself.
  int exit_code() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1; }

 private:
  Child(pid_t pid, UniqueFd out) : pid_(pid), out_(std::move(out)) {}
  bool Reap(absl::Time deadline) {
    while (true) {
      const pid_t ended = waitpid(pid_, &status_, WNOHANG);
      if (ended == pid_ || (ended < 0 && errno != EINTR)) return true;
      if (absl::Now() >= deadline) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  pid_t pid_;
  UniqueFd out_;
  int status_ = 0;
};

// What another child says of what this one wrote. For as long as it takes: who started this process
// ends both.
absl::Status HaveItRead(const UniqueFd& descriptor, const std::string& memory,
                        const std::string& uuid, uint64_t bytes) {
  ASSIGN_OR_RETURN(Child child, Child::Start({memory, uuid, std::to_string(bytes)}, descriptor));
  std::string said;
  (void)child.Await(absl::InfiniteFuture(), &said);
  if (child.exit_code() == 0) return absl::OkStatus();
  if (child.exit_code() == kChildFoundItFull) return absl::ResourceExhaustedError(said);
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
  return HaveItRead(fd, std::to_string(fd.get()), device.uuid, bytes);
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
  return HaveItRead(UniqueFd(), absl::BytesToHexString(handle), device.uuid, kBytes);
}

absl::Status ReadAsChild(std::string_view memory, const std::string& uuid, uint64_t bytes) {
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

// Says what came of one of the tests.
void Say(const absl::Status& tested) {
  std::string message(tested.message());
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::printf("%d %s\n", static_cast<int>(tested.code()), message.c_str());
  std::fflush(stdout);
}

int WriteAsChild(const std::string& uuid) {
  const auto test = [&uuid](auto f) -> absl::Status {
    ASSIGN_OR_RETURN(const auto driver, cuda::Driver::Load());
    ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::FindDevice(*driver, uuid));
    ASSIGN_OR_RETURN(const auto context, cuda::PrimaryContext::Retain(driver, device.ordinal));
    return f(context, device);
  };
  Say(test(TestDescriptors));
  Say(test(TestHandles));
  return 0;
}

// The first line of what a child said, which is taken out; `lacks` if there is none.
absl::Status TakeSaid(std::string_view* said, const absl::Status& lacks) {
  const size_t end = said->find('\n');
  if (end == std::string_view::npos) return lacks;
  const std::string_view line = said->substr(0, end);
  said->remove_prefix(end + 1);
  const size_t space = std::min(line.find(' '), line.size());
  int code = 0;
  if (!absl::SimpleAtoi(absl::string_view(line.data(), space), &code)) return lacks;
  return absl::Status(static_cast<absl::StatusCode>(code),
                      absl::string_view(line.data() + space, line.size() - space));
}

}  // namespace

GpuSelfTest TestGpu(const cuda::DeviceInfo& device, absl::Duration patience) {
  const absl::Time deadline = absl::Now() + patience;
  auto child = Child::Start({device.uuid}, UniqueFd());
  if (!child.ok()) return {child.status(), child.status()};
  std::string all;
  const bool in_time = child->Await(deadline, &all);
  const absl::Status lacks = in_time
                                 ? absl::InternalError("the process that tried it crashed")
                                 : absl::DeadlineExceededError(absl::StrCat(
                                       "it came to no end in ", absl::FormatDuration(patience)));
  // What it found out before that stays so.
  std::string_view said = all;
  absl::Status descriptors = TakeSaid(&said, lacks);
  return {std::move(descriptors), TakeSaid(&said, lacks)};
}

int RunGpuSelfTestChild(const std::vector<std::string>& arguments) {
  if (arguments.size() == 1) return WriteAsChild(arguments[0]);
  uint64_t size = 0;
  const absl::Status tested = arguments.size() == 3 && absl::SimpleAtoi(arguments[2], &size)
                                  ? ReadAsChild(arguments[0], arguments[1], size)
                                  : absl::InvalidArgumentError("MEMORY UUID BYTES");
  if (tested.ok()) return 0;
  std::printf("%s", std::string(tested.message()).c_str());
  return absl::IsResourceExhausted(tested) ? kChildFoundItFull : 1;
}

}  // namespace infercache::cli

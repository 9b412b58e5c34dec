#include "common/cuda/ipc.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace infercache::cuda {
namespace {

// Of what `call` was answered about memory that is to be exported. What drivers say of memory that
// never can be, since how it was allocated decides, is UNIMPLEMENTED; the rest may pass.
absl::Status CheckShareable(const Driver& driver, Result result, std::string_view call) {
  const absl::Status why = driver.Check(result, call);
  if (result != kInvalidValue && result != kNotSupported && result != kNotPermitted) return why;
  return absl::UnimplementedError(absl::StrCat(
      "the memory was not allocated to be shared: it is of a pool (cudaMallocAsync) or of "
      "PyTorch's "
      "expandable segments, for example; cudaMalloc's is, and cuMemCreate's if its properties "
      "request a POSIX descriptor: ",
      why.message()));
}

absl::StatusOr<UniqueFd> ExportDescriptor(const Driver& driver, const AddressRange& range) {
  AllocationHandle handle = 0;
  void* const base = reinterpret_cast<void*>(static_cast<uintptr_t>(range.base));
  RETURN_IF_ERROR(CheckShareable(driver, driver.api().mem_retain_allocation_handle(&handle, base),
                                 "cuMemRetainAllocationHandle"));
  int fd = -1;
  const Result exported =
      driver.api().mem_export_to_shareable_handle(&fd, handle, kHandlePosixFd, 0);
  (void)driver.api().mem_release(handle);
  RETURN_IF_ERROR(CheckShareable(driver, exported, "cuMemExportToShareableHandle"));
  return UniqueFd(fd);
}

// Drivers differ in what they say of one.
bool MayMeanOtherUser(Result opened) {
  return opened == kInvalidValue || opened == kInvalidHandle || opened == kNotPermitted;
}

}  // namespace

absl::StatusOr<AddressRange> FindRange(const PrimaryContext& context, Device device,
                                       DevicePointer pointer) {
  const CurrentContext current(context);
  RETURN_IF_ERROR(current.status());
  const Driver& driver = context.driver();
  int ordinal = -1;
  RETURN_IF_ERROR(
      driver.Check(driver.api().pointer_get_attribute(&ordinal, kPointerDeviceOrdinal, pointer),
                   "cuPointerGetAttribute"));
  if (ordinal != device) {
    return absl::InvalidArgumentError(
        absl::StrCat("the memory is GPU ", ordinal, "'s in this process, not GPU ", device, "'s"));
  }
  AddressRange range;
  size_t bytes = 0;
  RETURN_IF_ERROR(driver.Check(driver.api().mem_get_address_range(&range.base, &bytes, pointer),
                               "cuMemGetAddressRange"));
  range.bytes = bytes;
  return range;
}

absl::StatusOr<ExportedMemory> ExportMemory(const PrimaryContext& context,
                                            const AddressRange& range) {
  const CurrentContext current(context);
  RETURN_IF_ERROR(current.status());
  const Driver& driver = context.driver();
  int legacy = 0;
  RETURN_IF_ERROR(driver.Check(
      driver.api().pointer_get_attribute(&legacy, kPointerIsLegacyIpcCapable, range.base),
      "cuPointerGetAttribute"));
  ExportedMemory exported;
  if (legacy != 0) {
    RETURN_IF_ERROR(CheckShareable(driver,
                                   driver.api().ipc_get_mem_handle(&exported.handle, range.base),
                                   "cuIpcGetMemHandle"));
    return exported;
  }
  ASSIGN_OR_RETURN(exported.descriptor, ExportDescriptor(driver, range));
  return exported;
}

absl::StatusOr<IpcMapping> IpcMapping::Open(std::shared_ptr<const PrimaryContext> context,
                                            const IpcHandle& handle, uint64_t bytes,
                                            const IpcPeers& peers, bool* never) {
  const CurrentContext current(*context);
  RETURN_IF_ERROR(current.status());
  const Driver& driver = context->driver();
  DevicePointer address = 0;
  const Result opened =
      driver.api().ipc_open_mem_handle(&address, handle, kIpcLazyEnablePeerAccess);
  if (opened == kInvalidContext && peers.exporter_pid == static_cast<uint64_t>(getpid())) {
    *never = true;
    return absl::FailedPreconditionError(absl::StrCat(
        "CUDA takes the process that lends and this one for the same, by their PIDs: it has ",
        peers.exporter_pid, " in its PID namespace, this process ", getpid(),
        " in its own; docs/gpu.md has what to do about it: ",
        driver.Check(opened, "cuIpcOpenMemHandle").message()));
  }
  if (MayMeanOtherUser(opened) && peers.exporter_user != peers.own_user) {
    *never = true;
    return absl::FailedPreconditionError(absl::StrCat(
        "CUDA opens no legacy handle of another user's: the process that lends is user ",
        peers.exporter_user, "'s, this one user ", peers.own_user,
        "'s; docs/gpu.md has what to do about it: ",
        driver.Check(opened, "cuIpcOpenMemHandle").message()));
  }
  RETURN_IF_ERROR(driver.Check(opened, "cuIpcOpenMemHandle"));
  IpcMapping mapping(std::move(context), address);
  // Whatever its sender says, the driver knows what the handle names.
  AddressRange range;
  size_t found = 0;
  RETURN_IF_ERROR(driver.Check(driver.api().mem_get_address_range(&range.base, &found, address),
                               "cuMemGetAddressRange"));
  range.bytes = found;
  if (!range.Contains(address, bytes)) {
    *never = true;
    return absl::InvalidArgumentError(
        absl::StrCat("an allocation of ", found, " bytes that is said to have ", bytes));
  }
  return mapping;
}

IpcMapping::IpcMapping(IpcMapping&& other) noexcept = default;

IpcMapping& IpcMapping::operator=(IpcMapping&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(address_, other.address_);
  return *this;
}

IpcMapping::~IpcMapping() {
  if (context_ != nullptr) (void)Close();
}

absl::Status IpcMapping::Close() {
  const std::shared_ptr<const PrimaryContext> context = std::move(context_);
  const CurrentContext current(*context);
  RETURN_IF_ERROR(current.status());
  const Driver& driver = context->driver();
  return driver.Check(driver.api().ipc_close_mem_handle(address_), "cuIpcCloseMemHandle");
}

}  // namespace infercache::cuda

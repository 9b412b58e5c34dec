#include "common/cuda/memory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace infercache::cuda {
namespace {

AllocationProperties ExportableMemoryOf(Device device) {
  AllocationProperties properties = {};
  properties.type = kAllocationPinned;
  properties.requested_handle_types = kHandlePosixFd;
  properties.location = {kLocationDevice, device};
  return properties;
}

}  // namespace

absl::StatusOr<uint64_t> Allocation::Granularity(const Driver& driver, Device device) {
  const AllocationProperties properties = ExportableMemoryOf(device);
  size_t bytes = 0;
  RETURN_IF_ERROR(driver.Check(
      driver.api().mem_get_allocation_granularity(&bytes, &properties, kGranularityMinimum),
      "cuMemGetAllocationGranularity"));
  if (bytes == 0) return absl::InternalError("cuMemGetAllocationGranularity: 0 bytes");
  return bytes;
}

absl::StatusOr<Allocation> Allocation::Create(std::shared_ptr<const Driver> driver, Device device,
                                              uint64_t bytes) {
  const OutsideOfCaptures outside(*driver);
  AllocationProperties properties = ExportableMemoryOf(device);
  // So that network cards and storage may read and write it, where the GPU knows that.
  int rdma = 0;
  if (driver->api().device_get_attribute(&rdma, kAttributeGpuDirectRdma, device) == kSuccess) {
    properties.flags.gpu_direct_rdma_capable = rdma != 0 ? 1 : 0;
  }
  AllocationHandle handle = 0;
  RETURN_IF_ERROR(driver->Check(driver->api().mem_create(&handle, bytes, &properties, 0),
                                absl::StrCat("cuMemCreate of ", bytes, " bytes")));
  return Allocation(std::move(driver), handle, bytes);
}

absl::StatusOr<Allocation> Allocation::Import(std::shared_ptr<const Driver> driver,
                                              const UniqueFd& fd, uint64_t bytes) {
  const OutsideOfCaptures outside(*driver);
  AllocationHandle handle = 0;
  // The descriptor itself, in the place of a pointer, is what the driver takes.
  void* const shareable = reinterpret_cast<void*>(static_cast<uintptr_t>(fd.get()));
  RETURN_IF_ERROR(driver->Check(
      driver->api().mem_import_from_shareable_handle(&handle, shareable, kHandlePosixFd),
      "cuMemImportFromShareableHandle"));
  return Allocation(std::move(driver), handle, bytes);
}

Allocation::Allocation(std::shared_ptr<const Driver> driver, AllocationHandle handle,
                       uint64_t bytes)
    : driver_(std::move(driver)), handle_(handle), bytes_(bytes) {}

Allocation::Allocation(Allocation&& other) noexcept = default;

Allocation& Allocation::operator=(Allocation&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(handle_, other.handle_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Allocation::~Allocation() {
  if (driver_ == nullptr) return;
  const OutsideOfCaptures outside(*driver_);
  // Nothing can be done about a failure: the driver frees everything with the process.
  (void)driver_->api().mem_release(handle_);
}

absl::StatusOr<UniqueFd> Allocation::Export() const {
  int fd = -1;
  RETURN_IF_ERROR(
      driver_->Check(driver_->api().mem_export_to_shareable_handle(&fd, handle_, kHandlePosixFd, 0),
                     "cuMemExportToShareableHandle"));
  return UniqueFd(fd);
}

absl::StatusOr<Mapping> Mapping::Map(const Allocation& allocation, Device device, Access access) {
  const std::shared_ptr<const Driver>& driver = allocation.driver_;
  const uint64_t bytes = allocation.bytes();
  const OutsideOfCaptures outside(*driver);
  DevicePointer address = 0;
  RETURN_IF_ERROR(driver->Check(driver->api().mem_address_reserve(&address, bytes, 0, 0, 0),
                                "cuMemAddressReserve"));
  Mapping mapping(driver, address, bytes);
  RETURN_IF_ERROR(driver->Check(driver->api().mem_map(address, bytes, 0, allocation.handle_, 0),
                                absl::StrCat("cuMemMap of ", bytes, " bytes")));
  mapping.mapped_ = true;
  const AccessDescription description = {{kLocationDevice, device},
                                         access == Access::kRead ? kAccessRead : kAccessReadWrite};
  RETURN_IF_ERROR(driver->Check(driver->api().mem_set_access(address, bytes, &description, 1),
                                "cuMemSetAccess"));
  return mapping;
}

Mapping::Mapping(std::shared_ptr<const Driver> driver, DevicePointer address, uint64_t bytes)
    : driver_(std::move(driver)), address_(address), bytes_(bytes) {}

Mapping::Mapping(Mapping&& other) noexcept = default;

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Mapping::~Mapping() {
  if (driver_ != nullptr) (void)Close();
}

absl::Status Mapping::Close() {
  const std::shared_ptr<const Driver> driver = std::move(driver_);
  const OutsideOfCaptures outside(*driver);
  if (mapped_) {
    RETURN_IF_ERROR(driver->Check(driver->api().mem_unmap(address_, bytes_), "cuMemUnmap"));
  }
  return driver->Check(driver->api().mem_address_free(address_, bytes_), "cuMemAddressFree");
}

}  // namespace infercache::cuda

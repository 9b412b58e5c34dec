// Memory of cuMemAlloc, and legacy handles to it in other processes.
//
// A handle is what the driver finds an allocation by: who exported it, and at which address it lies
// there. So an address that is used again gives the bytes of an old handle a new meaning, as it may
// with the real one. Another process gets at the memory through /proc, if it is the same user's.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "tests/fake_cuda/calls.h"

namespace infercache::fake_cuda {
namespace {

constexpr uint64_t kHandleMagic = 0x6c646e6168637069;

struct HandleBytes {
  uint64_t magic;
  uint64_t pid_value;
  uint64_t address;
  uint32_t process;  // slot
  int32_t pid;       // for /proc
  char padding[32];
};
static_assert(sizeof(HandleBytes) == sizeof(cuda::IpcHandle));

}  // namespace

uint64_t Process::PidValue() {
  return state().faults.same_pid.load() != 0 ? 1 : static_cast<uint64_t>(getpid());
}

Result Process::Place(std::shared_ptr<Memory> memory, Kind kind, DevicePointer* address) {
  // As with memory that is mapped step by step: no CPU may touch it.
  void* const base =
      mmap(nullptr, memory->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return cuda::kOutOfMemory;
  std::shared_ptr<Shadow> shadow = Shadow::Map(memory);
  if (shadow == nullptr || !file_->Hold(kind, memory->device, memory->id, memory->bytes,
                                        reinterpret_cast<uintptr_t>(base), memory->fd.get())) {
    munmap(base, memory->bytes);
    return cuda::kOutOfMemory;
  }
  shadow->access.store(cuda::kAccessReadWrite);
  *address = reinterpret_cast<uintptr_t>(base);
  const std::lock_guard lock(mu_);
  mapped_[*address] = std::move(shadow);
  placed_[*address] = kind;
  return cuda::kSuccess;
}

void Process::Remove(DevicePointer address) {
  std::shared_ptr<Shadow> gone;
  const std::lock_guard lock(mu_);
  const auto it = mapped_.find(address);
  const Memory& memory = it->second->memory();
  munmap(reinterpret_cast<void*>(static_cast<uintptr_t>(address)), memory.bytes);
  file_->LetGo(placed_.at(address), memory.device, memory.id);
  gone = std::move(it->second);
  mapped_.erase(it);
  placed_.erase(address);
}

Result Process::Alloc(DevicePointer* address, size_t bytes, uint32_t device) {
  if (bytes == 0) return cuda::kInvalidValue;
  std::shared_ptr<Memory> memory = MakeMemory(file_->NewAllocation(), device, bytes);
  if (memory == nullptr) return cuda::kOutOfMemory;
  return Place(std::move(memory), Kind::kLegacy, address);
}

Result Process::Free(DevicePointer address) {
  uint64_t allocation = 0;
  {
    const std::lock_guard lock(mu_);
    const auto it = placed_.find(address);
    if (it == placed_.end() || it->second != Kind::kLegacy) return cuda::kInvalidValue;
    allocation = mapped_.at(address)->memory().id;
  }
  if (file_->IsOpened(allocation)) state().calls.freed_while_open.fetch_add(1);
  Remove(address);
  return cuda::kSuccess;
}

Result Process::Retain(AllocationHandle* handle, DevicePointer address) {
  std::shared_ptr<Memory> retained;
  {
    const std::lock_guard lock(mu_);
    auto it = mapped_.upper_bound(address);
    if (it == mapped_.begin()) return cuda::kInvalidValue;
    --it;
    const Memory& memory = it->second->memory();
    if (placed_.contains(it->first) || address - it->first >= memory.bytes) {
      return cuda::kInvalidValue;
    }
    retained = std::make_shared<Memory>();
    retained->fd = UniqueFd(fcntl(memory.fd.get(), F_DUPFD_CLOEXEC, 0));
    retained->id = memory.id;
    retained->device = memory.device;
    retained->bytes = memory.bytes;
    retained->exportable = memory.exportable;
  }
  if (!retained->fd.valid()) return cuda::kOperatingSystem;
  if (!file_->Hold(Kind::kHandle, retained->device, retained->id, retained->bytes)) {
    return cuda::kOutOfMemory;
  }
  *handle = Keep(std::move(retained));
  return cuda::kSuccess;
}

bool Process::FindRange(DevicePointer address, Range* range) {
  const std::lock_guard lock(mu_);
  auto it = mapped_.upper_bound(address);
  if (it == mapped_.begin()) return false;
  --it;
  const Memory& memory = it->second->memory();
  if (address - it->first >= memory.bytes) return false;
  const auto placed = placed_.find(it->first);
  *range = {it->first, memory.bytes, memory.device,
            placed == placed_.end() ? Kind::kMapping : placed->second};
  return true;
}

Result Process::GetIpcHandle(cuda::IpcHandle* handle, DevicePointer address) {
  state().calls.ipc_exports.fetch_add(1);
  if (const Result refused = RefusedExport(*this); refused != cuda::kSuccess) return refused;
  Range range;
  if (!FindRange(address, &range) || range.kind != Kind::kLegacy) return cuda::kInvalidValue;
  HandleBytes bytes = {};
  bytes.magic = kHandleMagic;
  bytes.pid_value = PidValue();
  bytes.address = range.base;
  bytes.process = file_->process();
  bytes.pid = getpid();
  std::memcpy(handle, &bytes, sizeof bytes);
  return cuda::kSuccess;
}

Result Process::OpenIpcHandle(DevicePointer* address, const cuda::IpcHandle& handle) {
  if (const uint32_t answer = state().faults.opens_answer.load(); answer != 0) {
    return static_cast<Result>(answer);
  }
  HandleBytes bytes;
  std::memcpy(&bytes, &handle, sizeof bytes);
  if (bytes.magic != kHandleMagic) return cuda::kInvalidValue;
  if (bytes.pid_value == PidValue()) return cuda::kInvalidContext;
  if (state().faults.refuse_imports.load() == 1) return cuda::kNotPermitted;
  const Holding found = file_->FindLegacy(bytes.process, bytes.address);
  if (found.kind == Kind::kNone) return cuda::kInvalidHandle;
  {
    const std::lock_guard lock(mu_);
    const auto it = opened_.find(found.allocation);
    if (it != opened_.end()) {
      ++it->second.second;
      *address = it->second.first;
      return cuda::kSuccess;
    }
  }
  const std::string path = "/proc/" + std::to_string(bytes.pid) + "/fd/" + std::to_string(found.fd);
  auto memory = std::make_shared<Memory>();
  memory->fd = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!memory->fd.valid()) return cuda::kInvalidHandle;
  // Whoever may look into every process may open nobody else's memory all the same.
  struct stat exported = {};
  if (fstat(memory->fd.get(), &exported) != 0 || exported.st_uid != geteuid()) {
    return cuda::kInvalidHandle;
  }
  memory->id = found.allocation;
  memory->device = found.device;
  memory->bytes = found.bytes;
  const Result placed = Place(std::move(memory), Kind::kOpened, address);
  if (placed != cuda::kSuccess) return placed;
  const std::lock_guard lock(mu_);
  opened_[found.allocation] = {*address, 1};
  return cuda::kSuccess;
}

Result Process::CloseIpcHandle(DevicePointer address) {
  {
    const std::lock_guard lock(mu_);
    const auto placed = placed_.find(address);
    if (placed == placed_.end() || placed->second != Kind::kOpened) return cuda::kInvalidValue;
    const auto it = opened_.find(mapped_.at(address)->memory().id);
    if (--it->second.second > 0) return cuda::kSuccess;
    opened_.erase(it);
  }
  Remove(address);
  return cuda::kSuccess;
}

}  // namespace infercache::fake_cuda

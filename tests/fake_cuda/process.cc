#include "tests/fake_cuda/process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace infercache::fake_cuda {
namespace {

// Of the process, and for as long as it lives: a driver is that.
Process* the_process = nullptr;
pid_t the_pid = 0;
std::mutex init_mu;

uint64_t NumberFrom(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// "/memfd:fakecuda-<id>-<device>-<bytes>-<exportable> (deleted)".
std::optional<Memory> Identify(int fd) {
  char name[256] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  if (readlink(link.c_str(), name, sizeof name - 1) <= 0) return std::nullopt;
  unsigned long long id = 0, bytes = 0;
  unsigned device = 0;
  if (std::sscanf(name, "/memfd:fakecuda-%llu-%u-%llu", &id, &device, &bytes) != 3) {
    return std::nullopt;
  }
  Memory memory;
  memory.id = id;
  memory.device = device;
  memory.bytes = bytes;
  memory.exportable = true;
  return memory;
}

// Of what is to fail so many times (-1 = always): whether this one is.
bool TakeOne(std::atomic<int32_t>& to_fail) {
  int32_t left = to_fail.load();
  while (left > 0 && !to_fail.compare_exchange_weak(left, left - 1)) {
  }
  return left != 0;
}

void AwaitInits(State& state) {
  state.calls.inits.fetch_add(1);
  WaitWhile(state.hangs.inits);
}

}  // namespace

std::vector<uint32_t>& CurrentContexts() {
  thread_local std::vector<uint32_t> contexts;
  return contexts;
}

int& CaptureMode() {
  thread_local int mode = cuda::kCaptureModeGlobal;
  return mode;
}

std::shared_ptr<Shadow> Shadow::Map(std::shared_ptr<Memory> memory) {
  void* const base =
      mmap(nullptr, memory->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd.get(), 0);
  if (base == MAP_FAILED) return nullptr;
  return std::shared_ptr<Shadow>(new Shadow(std::move(memory), static_cast<std::byte*>(base)));
}

Shadow::~Shadow() { munmap(base_, memory_->bytes); }

std::shared_ptr<Memory> MakeMemory(uint64_t id, uint32_t device, uint64_t bytes) {
  auto memory = std::make_shared<Memory>();
  memory->id = id;
  memory->device = device;
  memory->bytes = bytes;
  const std::string name =
      "fakecuda-" + std::to_string(id) + "-" + std::to_string(device) + "-" + std::to_string(bytes);
  memory->fd = UniqueFd(memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!memory->fd.valid() || ftruncate(memory->fd.get(), static_cast<off_t>(bytes)) != 0) {
    return nullptr;
  }
  return memory;
}

Process* Process::Get() { return the_pid == getpid() ? the_process : nullptr; }

Result Process::Init() {
  const std::lock_guard lock(init_mu);
  if (the_process != nullptr) {
    if (the_pid != getpid()) return cuda::kNotInitialized;
    AwaitInits(the_process->state());
    // A real driver is ready once and for all. Here a test's own process, which had it ready
    // before, can play one that has just begun.
    return TakeOne(the_process->state().faults.inits_not_ready) ? cuda::kSystemNotReady
                                                                : cuda::kSuccess;
  }
  const char* const path = std::getenv("FAKE_CUDA_STATE");
  if (path == nullptr) return cuda::kNoDevice;
  auto file = StateFile::Open(path, static_cast<uint32_t>(NumberFrom("FAKE_CUDA_DEVICES", 1)),
                              NumberFrom("FAKE_CUDA_DEVICE_BYTES", uint64_t{256} << 20));
  if (file == nullptr) return cuda::kOperatingSystem;
  AwaitInits(file->state());
  if (TakeOne(file->state().faults.inits_not_ready)) return cuda::kSystemNotReady;
  if (!file->Enter()) return cuda::kOperatingSystem;
  if (file->state().device_count == 0) return cuda::kNoDevice;
  the_process = new Process(std::move(file));
  the_pid = getpid();
  pthread_atfork(nullptr, nullptr, [] { the_process->file().Leave(); });
  return cuda::kSuccess;
}

AllocationHandle Process::Keep(std::shared_ptr<Memory> memory) {
  const std::lock_guard lock(mu_);
  handles_[next_handle_] = std::move(memory);
  return next_handle_++;
}

Result Process::Create(AllocationHandle* handle, size_t bytes, uint32_t device, bool exportable) {
  if (bytes == 0 || bytes % kGranularity != 0) return cuda::kInvalidValue;
  if (TakeOne(state().faults.creates_to_fail)) return cuda::kOutOfMemory;
  std::shared_ptr<Memory> memory = MakeMemory(file_->NewAllocation(), device, bytes);
  if (memory == nullptr) return cuda::kOutOfMemory;
  memory->exportable = exportable;
  if (!file_->Hold(Kind::kHandle, device, memory->id, bytes)) return cuda::kOutOfMemory;
  *handle = Keep(std::move(memory));
  return cuda::kSuccess;
}

Result Process::Import(AllocationHandle* handle, int fd) {
  if (const uint32_t answer = state().faults.opens_answer.load(); answer != 0) {
    return static_cast<Result>(answer);
  }
  std::optional<Memory> known = Identify(fd);
  if (!known.has_value() || !has_device(static_cast<int>(known->device))) {
    return cuda::kInvalidValue;
  }
  known->fd = UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!known->fd.valid()) return cuda::kOperatingSystem;
  if (!file_->Hold(Kind::kHandle, known->device, known->id, known->bytes)) {
    return cuda::kOutOfMemory;
  }
  *handle = Keep(std::make_shared<Memory>(*std::move(known)));
  return cuda::kSuccess;
}

Result Process::Release(AllocationHandle handle) {
  const std::lock_guard lock(mu_);
  const auto it = handles_.find(handle);
  if (it == handles_.end()) return cuda::kInvalidValue;
  file_->LetGo(Kind::kHandle, it->second->device, it->second->id);
  handles_.erase(it);
  return cuda::kSuccess;
}

std::shared_ptr<Memory> Process::Find(AllocationHandle handle) {
  const std::lock_guard lock(mu_);
  const auto it = handles_.find(handle);
  return it == handles_.end() ? nullptr : it->second;
}

Result Process::ReserveAddress(DevicePointer* address, size_t bytes) {
  if (bytes == 0 || bytes % kGranularity != 0) return cuda::kInvalidValue;
  // Touching it is a fault, as it is with a device's address.
  void* const base =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return cuda::kOutOfMemory;
  *address = reinterpret_cast<uintptr_t>(base);
  const std::lock_guard lock(mu_);
  reserved_[*address] = bytes;
  return cuda::kSuccess;
}

Result Process::FreeAddress(DevicePointer address, size_t bytes) {
  const std::lock_guard lock(mu_);
  const auto it = reserved_.find(address);
  if (it == reserved_.end() || it->second != bytes || AnyMappedIn(address, bytes)) {
    return cuda::kInvalidValue;
  }
  munmap(reinterpret_cast<void*>(static_cast<uintptr_t>(address)), bytes);
  reserved_.erase(it);
  return cuda::kSuccess;
}

bool Process::AnyMappedIn(DevicePointer address, size_t bytes) const {
  const auto it = mapped_.lower_bound(address);
  return it != mapped_.end() && it->first < address + bytes;
}

Result Process::Map(DevicePointer address, size_t bytes, AllocationHandle handle) {
  const std::shared_ptr<Memory> memory = Find(handle);
  if (memory == nullptr || memory->bytes != bytes) return cuda::kInvalidValue;
  std::shared_ptr<Shadow> shadow = Shadow::Map(memory);
  if (shadow == nullptr) return cuda::kOutOfMemory;
  const std::lock_guard lock(mu_);
  auto it = reserved_.upper_bound(address);
  if (it == reserved_.begin()) return cuda::kInvalidValue;
  --it;
  if (address - it->first > it->second || bytes > it->second - (address - it->first) ||
      address % kGranularity != 0 || AnyMappedIn(address, bytes)) {
    return cuda::kInvalidValue;
  }
  if (!file_->Hold(Kind::kMapping, memory->device, memory->id, bytes)) return cuda::kOutOfMemory;
  mapped_[address] = std::move(shadow);
  return cuda::kSuccess;
}

Result Process::Unmap(DevicePointer address, size_t bytes) {
  std::shared_ptr<Shadow> gone;
  const std::lock_guard lock(mu_);
  const auto it = mapped_.find(address);
  if (it == mapped_.end() || it->second->memory().bytes != bytes || placed_.contains(address)) {
    return cuda::kInvalidValue;
  }
  file_->LetGo(Kind::kMapping, it->second->memory().device, it->second->memory().id);
  gone = std::move(it->second);
  mapped_.erase(it);
  return cuda::kSuccess;
}

Result Process::SetAccess(DevicePointer address, size_t bytes, uint32_t device, int access) {
  const std::lock_guard lock(mu_);
  const auto it = mapped_.find(address);
  if (it == mapped_.end() || it->second->memory().bytes != bytes ||
      it->second->memory().device != device) {
    return cuda::kInvalidValue;
  }
  it->second->access.store(access);
  return cuda::kSuccess;
}

bool Process::IsRegistered(const void* memory, size_t bytes) {
  const std::lock_guard lock(mu_);
  auto it = registered_.upper_bound(memory);
  if (it == registered_.begin()) return false;
  --it;
  const auto& [base, registered] = *it;
  if (!registered.portable && registered.device != CurrentContexts().back()) return false;
  return static_cast<const std::byte*>(memory) + bytes <=
         static_cast<const std::byte*>(base) + registered.bytes;
}

Result Process::RegisterHost(void* memory, size_t bytes, bool portable) {
  const std::lock_guard lock(mu_);
  const auto from = static_cast<const std::byte*>(memory);
  for (const auto& [base, registered] : registered_) {
    const auto other = static_cast<const std::byte*>(base);
    if (from < other + registered.bytes && other < from + bytes) {
      return cuda::kHostMemoryAlreadyRegistered;
    }
  }
  registered_[memory] = {bytes, CurrentContexts().back(), portable};
  state().calls.registers.fetch_add(1);
  return cuda::kSuccess;
}

Result Process::UnregisterHost(void* memory) {
  const std::lock_guard lock(mu_);
  if (registered_.erase(memory) == 0) return cuda::kHostMemoryNotRegistered;
  state().calls.unregisters.fetch_add(1);
  return cuda::kSuccess;
}

std::optional<Piece> Process::PieceAt(DevicePointer address, size_t bytes) {
  const std::lock_guard lock(mu_);
  auto it = mapped_.upper_bound(address);
  if (it == mapped_.begin()) return std::nullopt;
  --it;
  const uint64_t offset = address - it->first;
  const uint64_t size = it->second->memory().bytes;
  if (offset > size || bytes > size - offset) return std::nullopt;
  return Piece{it->second, it->second->base() + offset};
}

size_t Process::MappedFrom(DevicePointer address) {
  const std::lock_guard lock(mu_);
  auto it = mapped_.upper_bound(address);
  if (it == mapped_.begin()) return 0;
  --it;
  const uint64_t offset = address - it->first;
  const uint64_t size = it->second->memory().bytes;
  return offset < size ? size - offset : 0;
}

}  // namespace infercache::fake_cuda

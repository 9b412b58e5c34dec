// What one process has of the fake driver: its handles, device addresses, context and streams.

#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "common/cuda/driver_types.h"
#include "common/unique_fd.h"
#include "tests/fake_cuda/state.h"

namespace infercache::fake_cuda {

using cuda::AllocationHandle;
using cuda::DevicePointer;
using cuda::Result;

// Physical memory as this process sees it. Its descriptor's name says which it is, so that whoever
// gets it over a socket can tell.
struct Memory {
  UniqueFd fd;
  uint64_t id = 0;
  uint32_t device = 0;
  uint64_t bytes = 0;
  bool exportable = false;
};

// Memory of a device, unless there is no room: null. Held by nobody yet.
std::shared_ptr<Memory> MakeMemory(uint64_t id, uint32_t device, uint64_t bytes);

// The CPU's way to a mapping: what the driver itself copies through.
class Shadow {
 public:
  static std::shared_ptr<Shadow> Map(std::shared_ptr<Memory> memory);
  ~Shadow();
  std::byte* base() const { return base_; }
  const Memory& memory() const { return *memory_; }
  std::atomic<int> access{0};  // as cuMemSetAccess said

 private:
  Shadow(std::shared_ptr<Memory> memory, std::byte* base)
      : memory_(std::move(memory)), base_(base) {}
  const std::shared_ptr<Memory> memory_;
  std::byte* const base_;
};

// A piece of a mapping, kept by whatever is to copy it.
struct Piece {
  std::shared_ptr<Shadow> shadow;
  std::byte* bytes = nullptr;
};

// While it is not 0; see Faults and Hangs.
void WaitWhile(std::atomic<uint32_t>& stuck);

// Work in order, on a thread of its own.
class FakeStream {
 public:
  FakeStream(Faults& faults, uint32_t device)
      : faults_(faults), device_(device), thread_([this] { Run(); }) {}
  // Work that has not begun is dropped, as with a context that is destroyed.
  ~FakeStream();
  void Add(std::function<void()> work);
  void Synchronize();
  bool idle();
  uint32_t device() const { return device_; }  // of its context

 private:
  void Run();

  Faults& faults_;
  const uint32_t device_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;
};

class Process {
 public:
  // Of this process; null before Init.
  static Process* Get();
  static Result Init();

  StateFile& file() { return *file_; }
  State& state() { return file_->state(); }
  bool has_device(int device) { return device >= 0 && uint32_t(device) < state().device_count; }

  Result Create(AllocationHandle* handle, size_t bytes, uint32_t device, bool exportable);
  Result Import(AllocationHandle* handle, int fd);
  Result Release(AllocationHandle handle);
  std::shared_ptr<Memory> Find(AllocationHandle handle);

  Result ReserveAddress(DevicePointer* address, size_t bytes);
  Result FreeAddress(DevicePointer address, size_t bytes);
  Result Map(DevicePointer address, size_t bytes, AllocationHandle handle);
  Result Unmap(DevicePointer address, size_t bytes);
  Result SetAccess(DevicePointer address, size_t bytes, uint32_t device, int access);
  std::optional<Piece> PieceAt(DevicePointer address, size_t bytes);
  // From `address` to the end of what is mapped there, which another mapping may follow.
  size_t MappedFrom(DevicePointer address);

  // --- ipc.cc: cuMemAlloc, and its handles in other processes ---
  Result Alloc(DevicePointer* address, size_t bytes, uint32_t device);
  Result Free(DevicePointer address);
  Result Retain(AllocationHandle* handle, DevicePointer address);
  // What is mapped or allocated there. False: nothing.
  struct Range {
    DevicePointer base = 0;
    size_t bytes = 0;
    uint32_t device = 0;
    Kind kind = Kind::kMapping;  // or kLegacy, or kOpened
  };
  bool FindRange(DevicePointer address, Range* range);
  Result GetIpcHandle(cuda::IpcHandle* handle, DevicePointer address);
  Result OpenIpcHandle(DevicePointer* address, const cuda::IpcHandle& handle);
  Result CloseIpcHandle(DevicePointer address);

  // Twice is an error, and so is what was not registered. Goes with the context of its device at
  // the latest; unless it is portable, nothing to the others.
  Result RegisterHost(void* memory, size_t bytes, bool portable);
  bool IsRegistered(const void* memory, size_t bytes);
  Result UnregisterHost(void* memory);

  Result RetainContext(uint32_t device);
  Result ReleaseContext(uint32_t device);
  // Nothing needs a context that is dead, or none: what a call that needs one answers.
  Result CheckContext();
  // Whether the calling thread may do now what cannot be in a graph.
  Result CheckCapture();
  // Something was done that no context of the device survives.
  void KillContext(uint32_t device) { dead_.fetch_or(uint32_t{1} << device); }
  // A context that was once dead stays it, until nobody has it any more.
  bool dead(uint32_t device) {
    dead_.fetch_or(state().faults.contexts_dead.load());
    return (dead_.load() >> device & 1) != 0;
  }
  // In the current context, which there is.
  FakeStream* NewStream();
  FakeStream* FindStream(cuda::Stream stream);  // null = there is none
  Result DestroyStream(cuda::Stream stream);

 private:
  explicit Process(std::unique_ptr<StateFile> file) : file_(std::move(file)) {}
  bool AnyMappedIn(DevicePointer address, size_t bytes) const;  // with mu_
  AllocationHandle Keep(std::shared_ptr<Memory> memory);
  // What CUDA tells processes apart by.
  uint64_t PidValue();
  // A device address for memory that is not reserved and mapped step by step.
  Result Place(std::shared_ptr<Memory> memory, Kind kind, DevicePointer* address);
  void Remove(DevicePointer address);

  const std::unique_ptr<StateFile> file_;
  std::atomic<uint32_t> dead_{0};  // a bit for each device
  std::mutex mu_;
  AllocationHandle next_handle_ = 1;
  std::map<AllocationHandle, std::shared_ptr<Memory>> handles_;
  std::map<DevicePointer, size_t> reserved_;
  std::map<DevicePointer, std::shared_ptr<Shadow>> mapped_;
  struct Registered {
    size_t bytes = 0;
    uint32_t device = 0;
    bool portable = false;
  };
  std::map<const void*, Registered> registered_;
  std::map<DevicePointer, Kind> placed_;                      // those of mapped_ that Place made
  std::map<uint64_t, std::pair<DevicePointer, int>> opened_;  // by allocation: where, how often
  std::map<uint32_t, int> contexts_;
  std::map<uint32_t, std::unique_ptr<FakeStream>> default_streams_;  // by device
  std::map<FakeStream*, std::unique_ptr<FakeStream>> streams_;
  std::vector<std::unique_ptr<FakeStream>> destroyed_;  // which may still be at work
};

// The calling thread's current contexts, by device.
std::vector<uint32_t>& CurrentContexts();
// As cuThreadExchangeStreamCaptureMode set it.
int& CaptureMode();

}  // namespace infercache::fake_cuda

// What the processes that use the fake driver share: a file, named by FAKE_CUDA_STATE, in which
// each writes what it holds of the devices, and tests write faults and read counts.
//
// A process holds a lock on its slot's byte of the file for as long as it lives: what a dead one
// left is found by that and forgotten, as a driver forgets it. Memory that only a descriptor under
// way keeps alive is not counted.

#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "common/unique_fd.h"

namespace infercache::fake_cuda {

inline constexpr uint32_t kMaxDevices = 4;
inline constexpr uint32_t kMaxProcesses = 512;
inline constexpr uint32_t kMaxHoldings = 8192;
inline constexpr uint64_t kGranularity = uint64_t{2} << 20;

// kLegacy: what cuMemAlloc made, which its process can export by a legacy handle; kOpened: such a
// handle, opened in another process.
enum class Kind : uint32_t { kNone, kHandle, kMapping, kContext, kLegacy, kOpened };

struct Holding {
  Kind kind;
  uint32_t process;  // slot
  uint32_t device;
  int32_t fd;           // of a kLegacy, in its process
  uint64_t allocation;  // 0 for a context
  uint64_t bytes;
  uint64_t address;  // of a kLegacy
};

struct Faults {
  std::atomic<int32_t> creates_to_fail;  // so many with "out of memory"; -1 = all
  std::atomic<uint32_t> refuse_exports;  // 1: as not supported; else a CUresult
  std::atomic<uint32_t> refuse_imports;  // 1: and the opening of legacy handles; 2: not that
  // 1: all are being captured, for a graph; 2: one that the default stream waits for.
  std::atomic<uint32_t> streams_capture;
  // Somebody captures a graph in the global mode: what cannot be in one fails, and is counted.
  std::atomic<uint32_t> global_capture;
  std::atomic<uint32_t> refuse_registers;  // of host memory
  std::atomic<uint32_t> refuse_records;    // of events: "out of memory"
  std::atomic<uint32_t> streams_stuck;     // a futex: streams wait while it is not 0
  // A bit for each device: every call that needs its context fails.
  std::atomic<uint32_t> contexts_dead;
  std::atomic<uint32_t> same_pid;  // all processes have one PID value, each in its namespace
  // What a stream that is none is: an invalid handle, or, not 0, one of a destroyed context.
  std::atomic<uint32_t> lost_streams;
  std::atomic<uint32_t> refuse_maps;        // of memory of a device: "out of memory"
  std::atomic<uint32_t> maps_need_context;  // a current one, of the thread that maps
  std::atomic<int32_t> inits_not_ready;     // so many say that the system is not; -1 = all
  // Not 0: what opening a legacy handle and importing a descriptor answer, a CUresult.
  std::atomic<uint32_t> opens_answer;
  // A futex: while it is not 0, unmapping and closing wait, as for a GPU that hangs.
  std::atomic<uint32_t> unmaps_stuck;
};

// Those that no test in Python has a use for.
struct RareFaults {
  // Not 0: only so many less one can still be made, and then "out of memory".
  std::atomic<uint32_t> streams_to_make;
};

// Futexes: while one is not 0, the call waits, as for a GPU that hangs.
struct Hangs {
  std::atomic<uint32_t> inits, creates, releases;  // cuInit, cuMemCreate, cuMemRelease
};

// How often each was called, in all processes.
struct Calls {
  std::atomic<uint64_t> creates, exports, imports, maps, unmaps, contexts;
  std::atomic<uint64_t> registers, unregisters;  // of host memory
  std::atomic<uint64_t> ipc_exports, ipc_opens, ipc_closes;
  // What CUDA calls undefined: cuMemFree of what another process has open.
  std::atomic<uint64_t> freed_while_open;
  // Under a global_capture: by threads that had not said that they have no part in it, and by
  // others.
  std::atomic<uint64_t> captures_broken, captures_left_alone;
  // From a device to host memory that is not registered for it.
  std::atomic<uint64_t> pageable_copies;
  std::atomic<uint64_t> inits, releases;  // begun
};

// Its beginning is mirrored in tests/python/fake_gpus.py.
struct State {
  std::atomic<uint64_t> magic;  // last to be written
  pthread_mutex_t mu;           // of all processes; a holder may die
  uint32_t device_count;
  uint64_t device_bytes;
  uint64_t next_allocation;
  Faults faults;
  Calls calls;
  RareFaults rare_faults;
  Hangs hangs;
  Holding holdings[kMaxHoldings];
};

// What live processes hold of one device.
struct Use {
  uint64_t allocations = 0, bytes = 0;  // each counted once
  uint64_t handles = 0, mappings = 0, contexts = 0;
  uint64_t legacy = 0, opened = 0;
  bool operator==(const Use&) const = default;
};

// An opened state file. Thread-safe.
class StateFile {
 public:
  // Makes the file if there is none. Null: it cannot be opened or is something else.
  static std::unique_ptr<StateFile> Open(const std::string& path, uint32_t device_count,
                                         uint64_t device_bytes);
  ~StateFile();
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;

  // A slot of this process, until it ends. False: all are taken.
  bool Enter();
  // In a forked child: the slot stays its parent's.
  void Leave();

  State& state() { return *state_; }
  // False: there is no room in the device, or in the table.
  bool Hold(Kind kind, uint32_t device, uint64_t allocation, uint64_t bytes, uint64_t address = 0,
            int32_t fd = -1);
  void LetGo(Kind kind, uint32_t device, uint64_t allocation);
  uint64_t NewAllocation();
  uint32_t process() const { return process_; }
  // What a live process has at an address; kind kNone: nothing.
  Holding FindLegacy(uint32_t process, uint64_t address);
  // Whether a live process has it open.
  bool IsOpened(uint64_t allocation);
  Use UseOf(uint32_t device);

 private:
  StateFile(UniqueFd fd, State* state) : fd_(std::move(fd)), state_(state) {}
  bool Alive(uint32_t process) const;
  void ForgetTheDead();
  Use UseLocked(uint32_t device) const;

  UniqueFd fd_;
  State* const state_;
  uint32_t process_ = kMaxProcesses;
};

}  // namespace infercache::fake_cuda

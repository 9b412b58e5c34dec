// A test's side of the fake driver: makes its devices, for this process and those that it starts,
// injects faults and counts. Not thread-safe; one at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/fake_cuda/state.h"

namespace infercache::fake_cuda {

class FakeDriver {
 public:
  // Sets FAKE_CUDA_STATE, before the driver is loaded for the first time in this process. Only the
  // first in a process decides what this process itself sees.
  FakeDriver(uint32_t devices, uint64_t device_bytes);
  ~FakeDriver();
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;

  const std::string& path() const { return path_; }
  Faults& faults() { return file_->state().faults; }
  RareFaults& rare_faults() { return file_->state().rare_faults; }
  const Calls& calls() { return file_->state().calls; }
  Use UseOf(uint32_t device) { return file_->UseOf(device); }
  void StickStreams();
  void FreeStreams();
  void FreeUnmaps();
  // Of them, until EndHangs, or ClearFaults.
  Hangs& hangs() { return file_->state().hangs; }
  void EndHangs();
  void ClearFaults();

  static std::string Uuid(uint32_t device);

 private:
  std::string path_;
  std::unique_ptr<StateFile> file_;
};

}  // namespace infercache::fake_cuda

#include "tests/fake_cuda/fake_driver.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "common/cuda/driver.h"

namespace infercache::fake_cuda {

FakeDriver::FakeDriver(uint32_t devices, uint64_t device_bytes) {
  const char* const directory = std::getenv("TMPDIR");
  path_ = std::string(directory == nullptr ? "/tmp" : directory) + "/fake-cuda-XXXXXX";
  const UniqueFd fd(mkstemp(path_.data()));
  file_ = StateFile::Open(path_, devices, device_bytes);
  if (file_ == nullptr) std::abort();
  setenv("FAKE_CUDA_STATE", path_.c_str(), 1);
}

FakeDriver::~FakeDriver() { unlink(path_.c_str()); }

namespace {

void Open(std::atomic<uint32_t>& futex) {
  futex.store(0);
  syscall(SYS_futex, &futex, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

void FakeDriver::StickStreams() { faults().streams_stuck.store(1); }

void FakeDriver::FreeStreams() { Open(faults().streams_stuck); }
void FakeDriver::FreeUnmaps() { Open(faults().unmaps_stuck); }
void FakeDriver::EndHangs() {
  Open(hangs().inits);
  Open(hangs().creates);
  Open(hangs().releases);
}

void FakeDriver::ClearFaults() {
  FreeStreams();
  FreeUnmaps();
  EndHangs();
  faults().creates_to_fail.store(0);
  faults().refuse_exports.store(0);
  faults().refuse_imports.store(0);
  faults().streams_capture.store(0);
  faults().global_capture.store(0);
  faults().refuse_registers.store(0);
  faults().refuse_records.store(0);
  faults().contexts_dead.store(0);
  faults().lost_streams.store(0);
  faults().refuse_maps.store(0);
  faults().maps_need_context.store(0);
  faults().inits_not_ready.store(0);
  faults().same_pid.store(0);
  faults().opens_answer.store(0);
  rare_faults().streams_to_make.store(0);
}

std::string FakeDriver::Uuid(uint32_t device) {
  cuda::Uuid uuid = {{'f', 'a', 'k', 'e', '-', 'c', 'u', 'd', 'a', '-', 'g', 'p', 'u', '-', 0,
                      static_cast<char>(device)}};
  return cuda::FormatUuid(uuid);
}

}  // namespace infercache::fake_cuda

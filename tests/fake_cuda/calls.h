// How an entry point begins: is the driver initialized, is there such a device, such a stream?

#pragma once

#include "tests/fake_cuda/process.h"

namespace infercache::fake_cuda {

// Calls f(process) in an initialized process.
template <class F>
Result With(F f) {
  Process* const process = Process::Get();
  return process == nullptr ? cuda::kNotInitialized : f(*process);
}
// The same of what cannot be in a graph: see Faults::global_capture.
template <class F>
Result WithUncaptured(F f) {
  return With([&](Process& process) {
    const Result capture = process.CheckCapture();
    return capture == cuda::kSuccess ? f(process) : capture;
  });
}
template <class F>
Result WithDevice(cuda::Device device, F f) {
  return With([&](Process& process) {
    return process.has_device(device) ? f(process) : cuda::kInvalidDevice;
  });
}
template <class F>
Result WithStream(cuda::Stream stream, F f) {
  return With([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    FakeStream* const found = process.FindStream(stream);
    if (found != nullptr && process.dead(found->device())) return cuda::kIllegalAddress;
    if (found != nullptr) return f(process, *found);
    return process.state().faults.lost_streams.load() == 0 ? cuda::kInvalidHandle
                                                           : cuda::kContextIsDestroyed;
  });
}

// See Faults::refuse_exports.
inline Result RefusedExport(Process& process) {
  const uint32_t refused = process.state().faults.refuse_exports.load();
  return refused == 1 ? cuda::kNotSupported : static_cast<Result>(refused);
}

}  // namespace infercache::fake_cuda

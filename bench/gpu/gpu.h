// The measurements' own side of a GPU: a stream, memory, and the time between two moments of the
// stream as the GPU sees it. Whatever fails ends the program. Not thread-safe.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/cuda/context.h"
#include "common/cuda/driver.h"
#include "common/cuda/memory.h"

namespace infercache::bench {

class Gpu {
 public:
  // `name`: a UUID; empty = the first GPU of this process.
  explicit Gpu(const std::string& name);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const cuda::DeviceInfo& info() const { return info_; }
  // Which driver and GPU this is, in words.
  std::string Description() const;
  bool fake() const { return info_.name == "Fake GPU"; }
  cuda::Stream stream() const { return stream_; }

  // What the GPU has left, for all processes.
  uint64_t FreeBytes() const;
  // Rounded up to what a GPU allocates.
  cuda::Mapping Allocate(uint64_t bytes) const;
  // The CPU's copies from and to it go at full speed.
  void Register(std::vector<std::byte>& memory) const;
  void Unregister(std::vector<std::byte>& memory) const;

  // Copies, in the stream's order.
  void Copy(cuda::DevicePointer to, cuda::DevicePointer from, uint64_t bytes) const;
  void CopyFromHost(cuda::DevicePointer to, const std::byte* from, uint64_t bytes) const;
  void CopyToHost(std::byte* to, cuda::DevicePointer from, uint64_t bytes) const;
  void Synchronize() const;

  // From here to Stop in the stream; Stop waits for it.
  void Start() const;
  std::chrono::nanoseconds Stop() const;

 private:
  // f(api) in the context; ends the program if that fails.
  template <class F>
  void Do(const char* call, F f) const;

  const std::shared_ptr<const cuda::Driver> driver_;
  const cuda::DeviceInfo info_;
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  cuda::Stream stream_ = nullptr;
  cuda::Event start_ = nullptr, stop_ = nullptr;
};

}  // namespace infercache::bench

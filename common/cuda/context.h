// The device's primary context, the one that CUDA's runtime and its users (PyTorch) work in, and
// streams of our own. A process that only allocates and exports needs neither.

#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/cuda/driver.h"

namespace infercache::cuda {

// Keeps the primary context of a device. Thread-safe.
class PrimaryContext {
 public:
  static absl::StatusOr<std::shared_ptr<const PrimaryContext>> Retain(
      std::shared_ptr<const Driver> driver, Device device);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  const Driver& driver() const { return *driver_; }
  const std::shared_ptr<const Driver>& shared_driver() const { return driver_; }

 private:
  friend class CurrentContext;
  PrimaryContext(std::shared_ptr<const Driver> driver, Device device, Context context)
      : driver_(std::move(driver)), device_(device), context_(context) {}

  const std::shared_ptr<const Driver> driver_;
  const Device device_;
  const Context context_;
};

// Makes it the calling thread's current one for a scope, whatever was before. What the thread does
// there does not break captures of graphs.
class CurrentContext {
 public:
  explicit CurrentContext(const PrimaryContext& context);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

  // Why it is not, if so: nothing that needs it will work.
  const absl::Status& status() const { return status_; }

 private:
  const Driver& driver_;
  const OutsideOfCaptures outside_;
  const absl::Status status_;
};

}  // namespace infercache::cuda

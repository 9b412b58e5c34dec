#include "common/cuda/context.h"

#include "common/status_macros.h"

namespace infercache::cuda {

absl::StatusOr<std::shared_ptr<const PrimaryContext>> PrimaryContext::Retain(
    std::shared_ptr<const Driver> driver, Device device) {
  const OutsideOfCaptures outside(*driver);
  Context context = nullptr;
  RETURN_IF_ERROR(driver->Check(driver->api().device_primary_ctx_retain(&context, device),
                                "cuDevicePrimaryCtxRetain"));
  return std::shared_ptr<const PrimaryContext>(
      new PrimaryContext(std::move(driver), device, context));
}

PrimaryContext::~PrimaryContext() {
  const OutsideOfCaptures outside(*driver_);
  (void)driver_->api().device_primary_ctx_release(device_);
}

CurrentContext::CurrentContext(const PrimaryContext& context)
    : driver_(context.driver()),
      outside_(driver_),
      status_(driver_.Check(driver_.api().ctx_push_current(context.context_), "cuCtxPushCurrent")) {
}

CurrentContext::~CurrentContext() {
  Context popped = nullptr;
  if (status_.ok()) (void)driver_.api().ctx_pop_current(&popped);
}

}  // namespace infercache::cuda

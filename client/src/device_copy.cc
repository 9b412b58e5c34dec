#include "client/src/device_copy.h"

namespace infercache {

absl::Status CopyToHost(const cuda::PrimaryContext& context, cuda::DevicePointer from,
                        std::span<std::byte> to) {
  if (to.empty()) return absl::OkStatus();
  const cuda::CurrentContext current(context);
  if (!current.status().ok()) return current.status();
  const cuda::Api& api = context.driver().api();
  cuda::Stream stream = nullptr;
  cuda::Result done = api.stream_create(&stream, cuda::kStreamNonBlocking);
  if (done == cuda::kSuccess) {
    done = api.memcpy_dtoh_async(to.data(), from, to.size(), stream);
    if (done == cuda::kSuccess) done = api.stream_synchronize(stream);
    (void)api.stream_destroy(stream);
  }
  return context.driver().Check(done, "cuMemcpyDtoHAsync");
}

}  // namespace infercache

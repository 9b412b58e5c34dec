// What the headers show at their top, compiled as it stands there. Nothing runs it: a GPU and a
// daemon would have to be there.

#include <cstdint>
#include <utility>

#include "infercache/claim.h"
#include "infercache/client.h"
#include "infercache/device.h"

namespace consumer {

void Launch(infercache::DevicePointer address, infercache::DeviceStream stream);

absl::Status UseDevice(infercache::Client* client, infercache::DevicePointer tensor, uint64_t n,
                       infercache::DeviceStream stream) {
  auto gpu = infercache::DeviceUuid(0);
  if (!gpu.ok()) return gpu.status();
  auto device = client->OpenDevice(*gpu);
  if (!device.ok()) return device.status();
  auto got = (*device)->Get("block/42");
  if (got.hit()) {
    Launch(got.object->address(), stream);
    (void)got.object->ReleaseAfter(stream);
  } else {
    (*device)->Put({.key = "block/42", .source = tensor, .size_bytes = n}, stream);
  }
  return absl::OkStatus();
}

}  // namespace consumer

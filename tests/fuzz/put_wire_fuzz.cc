// Any bytes, cut anywhere: the walker and Protobuf agree on whether they are a put, and which.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/rpc/put_wire_oracle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  // The first two bytes say where to cut, the rest is the message.
  const std::vector<size_t> cuts = {data[0] % 16u, data[1] % 64u};
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  for (const std::string& difference :
       {infercache::rpc::ComparePut(bytes, cuts), infercache::rpc::ComparePutStream(bytes, cuts)}) {
    if (difference.empty()) continue;
    std::fprintf(stderr, "%s\n", difference.c_str());
    std::abort();
  }
  return 0;
}

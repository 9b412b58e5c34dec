// A program outside of the tree: stores an object in the daemon at argv[1] and reads it back.

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

#include "infercache/client.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto client =
      infercache::Client::Connect({.endpoint = argv[1], .fingerprint = {{"model", "consumer"}}});
  if (!client.ok()) {
    std::fprintf(stderr, "connect: %s\n", std::string(client.status().message()).c_str());
    return 1;
  }
  constexpr std::string_view kText = "from outside of the tree";
  const auto bytes = std::as_bytes(std::span(kText));
  const infercache::PutResult put = (*client)->Put({.key = "greeting", .value = {bytes}});
  if (put.outcome == infercache::PutOutcome::kRefused) {
    std::fprintf(stderr, "put: %s\n", std::string(put.status.message()).c_str());
    return 1;
  }
  const infercache::GetResult got = (*client)->Get("greeting");
  if (!got.hit() || !std::ranges::equal(got.object->bytes(), bytes)) {
    std::fprintf(stderr, "get: %s\n", std::string(got.status.message()).c_str());
    return 1;
  }
  std::printf("%s: %zu bytes read back\n",
              put.outcome == infercache::PutOutcome::kStored ? "stored" : "was there",
              got.object->bytes().size());
  return 0;
}

// A worker of the single-flight test: gets or computes the keys that it is told to, and says how.
//
//   infercache_flight_worker ENDPOINT
//
// Reads lines "go ROUND KEYS [backwards] [hold]": the keys are "ROUND/0" ... "ROUND/KEYS-1". Prints
// "computing ROUND/I" when it begins to compute a key, and with `hold` goes on when it reads a line
// "on". Then prints "done ROUND COMPUTED MILLISECONDS", or "WRONG" and what.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "infercache/client.h"
#include "tests/chaos/flight_value.h"

namespace infercache::chaos {
namespace {

using std::chrono::steady_clock;

[[noreturn]] void Wrong(const std::string& what) {
  std::printf("WRONG %s\n", what.c_str());
  std::fflush(stdout);
  _exit(3);
}

struct Order {
  std::string round;
  int keys = 0;
  bool backwards = false;
  bool hold = false;
};

Order ParseOrder(const std::string& line) {
  std::istringstream words(line);
  std::string word;
  Order order;
  words >> word >> order.round >> order.keys;
  while (words >> word) {
    order.backwards |= word == "backwards";
    order.hold |= word == "hold";
  }
  return order;
}

absl::Status Compute(const Order& order, ComputeSlot& slot) {
  const std::string key(slot.key());
  std::printf("computing %s\n", key.c_str());
  std::fflush(stdout);
  std::string line;
  if (order.hold && !std::getline(std::cin, line)) _exit(0);
  const std::string value = FlightValue(key);
  const auto room = slot.Allocate(value.size());
  if (!room.ok()) return room.status();
  std::copy_n(reinterpret_cast<const std::byte*>(value.data()), value.size(), room->begin());
  return absl::OkStatus();
}

void Run(Client& client, const Order& order) {
  std::vector<std::string> keys;
  for (int i = 0; i < order.keys; ++i) keys.push_back(order.round + "/" + std::to_string(i));
  if (order.backwards) std::reverse(keys.begin(), keys.end());
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const auto start = steady_clock::now();
  const auto results =
      client.GetOrCompute(views, [&order](ComputeSlot& slot) { return Compute(order, slot); });
  int computed = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    const ComputeResult& result = results[i];
    if (!result.status.ok()) Wrong(keys[i] + ": " + result.status.ToString());
    if (!result.stored.ok()) Wrong(keys[i] + " is not stored: " + result.stored.ToString());
    const auto bytes = result.object->bytes();
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text != FlightValue(keys[i])) Wrong("bytes of " + keys[i]);
    computed += result.computed ? 1 : 0;
  }
  const auto took =
      std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start);
  std::printf("done %s %d %lld\n", order.round.c_str(), computed,
              static_cast<long long>(took.count()));
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  if (argc != 2) return 2;
  ClientOptions options;
  options.endpoint = argv[1];
  options.deadline = kFlightDeadline;
  auto connected = Client::Connect(std::move(options));
  if (!connected.ok()) {
    std::fprintf(stderr, "%s\n", connected.status().ToString().c_str());
    return 2;
  }
  // Connected before the first order, so that rounds begin together.
  if (const absl::Status ping = (*connected)->Ping(); !ping.ok()) Wrong(ping.ToString());
  std::printf("ready\n");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) Run(**connected, ParseOrder(line));
  return 0;
}

}  // namespace
}  // namespace infercache::chaos

int main(int argc, char** argv) { return infercache::chaos::Main(argc, argv); }

// What tests of the whole client share.

#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "infercache/client.h"

namespace infercache {

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

inline PutItem Item(std::string_view key, std::string_view value) {
  return {.key = key, .value = {Bytes(value)}};
}

inline std::unique_ptr<Client> ConnectOrDie(ClientOptions options) {
  auto client = Client::Connect(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

// Waits on the client's descriptor, as an event loop would, until `count` completions came.
inline std::vector<Completion> WaitFor(Client& client, size_t count) {
  std::vector<Completion> all;
  while (all.size() < count) {
    pollfd waiting = {.fd = client.event_fd(), .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 20'000) != 1) {
      ADD_FAILURE() << "only " << all.size() << " of " << count << " completions came";
      break;
    }
    for (Completion& completion : client.Drain()) all.push_back(std::move(completion));
  }
  return all;
}

// Polls for what becomes true on another thread and has no event of its own.
template <typename Condition>
bool Eventually(Condition condition, absl::Duration within = absl::Seconds(20)) {
  for (const absl::Time end = absl::Now() + within; absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return condition();
}

}  // namespace infercache

// The fixture of the conformance suite: a daemon, a client, and verbs in which tests read as
// stories. Suites over AllTransports do what a Device can do as well; those over Transports what
// only a Client can.

#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infercache/client.h"
#include "tests/conformance/transports.h"

namespace infercache {

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Bytes that differ from place to place and from seed to seed.
inline std::string Pattern(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& c : bytes) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return bytes;
}

template <typename Transport>
class Conformance : public ::testing::Test {
 protected:
  using AnyClient = typename Transport::Client;

  // As in Transport::options(), changed by `change`.
  template <typename Change>
  std::unique_ptr<AnyClient> Connect(Change change) {
    ClientOptions options = transport_.options();
    options.deadline = absl::Seconds(60);  // slow machines and sanitizers
    change(options);
    auto client = AnyClient::Connect(std::move(options));
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  std::unique_ptr<AnyClient> Connect() {
    return Connect([](ClientOptions&) {});
  }

  // kRefused also stands for "the status was not OK", which then has failed the test.
  PutOutcome Put(std::string_view key, std::string_view value, bool overwrite = false) {
    const PutResult result =
        client_->Put({.key = key, .value = {Bytes(value)}, .overwrite = overwrite});
    EXPECT_TRUE(result.status.ok()) << result.status;
    return result.outcome;
  }
  absl::Status PutStatus(const PutItem& item) { return client_->Put(item).status; }

  // The value, or "(miss)".
  static std::string GetFrom(AnyClient& client, std::string_view key) {
    const auto got = client.Get(key);
    EXPECT_TRUE(got.status.ok()) << got.status;
    return got.hit() ? Text(got.object->bytes()) : "(miss)";
  }
  std::string Get(std::string_view key) { return GetFrom(*client_, key); }

  std::vector<bool> Exists(const std::vector<std::string_view>& keys) {
    const KeysResult result = client_->Exists(keys);
    EXPECT_TRUE(result.status.ok()) << result.status;
    return result.flags;
  }
  bool Exists(std::string_view key) { return Exists(std::vector{key}).at(0); }

  std::vector<bool> Delete(const std::vector<std::string_view>& keys) {
    const KeysResult result = client_->Delete(keys);
    EXPECT_TRUE(result.status.ok()) << result.status;
    return result.flags;
  }

  std::vector<std::string> ListAll(std::string_view prefix, uint32_t page_size = 0) {
    std::vector<std::string> keys;
    std::string token;
    do {
      ListResult page = client_->List(prefix, page_size, token);
      EXPECT_TRUE(page.status.ok()) << page.status;
      for (ListedObject& object : page.objects) keys.push_back(std::move(object.key));
      token = std::move(page.next_page_token);
    } while (!token.empty());
    return keys;
  }

  InProcessDaemon& daemon() { return transport_.daemon(); }

  Transport transport_;
  std::unique_ptr<AnyClient> client_ = Connect();
};

}  // namespace infercache

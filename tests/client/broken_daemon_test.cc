// Daemons that stop in the middle: connections cut and stalled, calls never answered, batches that
// need more than one call.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <mutex>

#include "absl/time/clock.h"
#include "tests/client/client_testing.h"
#include "tests/client/fake_daemon.h"
#include "tests/client/proxy.h"

namespace infercache {
namespace {

// Far more than a deadline below needs, far less than gRPC's own patience.
constexpr absl::Duration kSoon = absl::Seconds(4);

TEST(BrokenDaemon, NeverAnsweringCostsOneDeadline) {
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .breaker_failures = 0});
  const CallOptions call = {.deadline = absl::Milliseconds(200)};
  const std::vector<std::string_view> keys = {"a", "b"};
  const std::vector<PutItem> items = {Item("a", "1")};
  const auto expect_late = [](auto ask) {
    const absl::Time start = absl::Now();
    const absl::Status status = ask();
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_GE(absl::Now() - start, absl::Milliseconds(190));
    EXPECT_LT(absl::Now() - start, kSoon);
  };
  expect_late([&] { return client->Get(keys, call)[1].status; });
  expect_late([&] { return client->Put(items, call)[0].status; });
  expect_late([&] { return client->Match(keys, call).status; });
  expect_late([&] { return client->Exists(keys, call).status; });
  expect_late([&] { return client->List("", 0, {}, call).status; });
  expect_late([&] { return client->Ping(call); });
}

TEST(BrokenDaemon, ADeadlineThatIsOverNeedsNoCall) {
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const CallOptions over = {.deadline = absl::ZeroDuration()};
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Get("k", over).status));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Put(Item("k", "v"), over).status));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Ping(over)));
  EXPECT_EQ(daemon.calls(), 0);
}

TEST(BrokenDaemon, AConnectionCutInMidCallFailsTheCallAtOnce) {
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); }, {"PutStream"});
  Proxy proxy(daemon.endpoint());
  auto client = ConnectOrDie(
      {.endpoint = proxy.endpoint(), .deadline = absl::Minutes(1), .max_unary_bytes = 1 << 20});
  const std::string large(4 << 20, 'v');
  const std::vector<PutItem> items = {Item("small", "v"), Item("large", large)};
  const std::string_view key = "k";
  client->SubmitGet(std::span(&key, 1));
  client->SubmitPut(std::span(items).first(1));
  client->SubmitPut(std::span(items).last(1));
  ASSERT_TRUE(Eventually([&] { return daemon.calls() == 3; }));
  const absl::Time start = absl::Now();
  proxy.Cut();
  for (const Completion& completion : WaitFor(*client, 3)) {
    const absl::Status& status =
        completion.get.empty() ? completion.put[0].status : completion.get[0].status;
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  }
  EXPECT_LT(absl::Now() - start, kSoon);
}

TEST(BrokenDaemon, WorkGoesOnAfterACut) {
  FakeDaemon daemon([](const Asked&) {
    v1::GetResponse response;
    response.add_results();
    return Answer::Of(response);
  });
  Proxy proxy(daemon.endpoint());
  auto client = ConnectOrDie({.endpoint = proxy.endpoint()});
  ASSERT_TRUE(client->Get("k").status.ok());
  proxy.Cut();
  EXPECT_TRUE(Eventually([&] { return client->Get("k").status.ok(); }));
}

// A put of memory that is unmapped as soon as the put is over, on a connection that stopped moving
// while the bytes were on their way.
TEST(BrokenDaemon, AStalledPutGivesTheMemoryBackAtTheDeadline) {
  constexpr size_t kBytes = 24 << 20;
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); });
  for (const uint64_t max_unary_bytes : {uint64_t{32} << 20, uint64_t{1} << 20}) {
    Proxy proxy(daemon.endpoint());
    auto client = ConnectOrDie({.endpoint = proxy.endpoint(), .max_unary_bytes = max_unary_bytes});
    ASSERT_TRUE(absl::IsDeadlineExceeded(
        client->Get("warm up the connection", {.deadline = absl::Milliseconds(300)}).status));
    proxy.Stall();
    void* memory =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    std::memset(memory, 'x', kBytes);
    const PutItem item = {.key = "k", .value = {{static_cast<std::byte*>(memory), kBytes}}};
    const absl::Time start = absl::Now();
    const PutResult result = client->Put(item, {.deadline = absl::Milliseconds(300)});
    ASSERT_EQ(munmap(memory, kBytes), 0);
    EXPECT_TRUE(absl::IsDeadlineExceeded(result.status)) << result.status;
    EXPECT_LT(absl::Now() - start, kSoon);
  }
}

// A daemon that answers at most two values at a time, and leaves out the others.
class StingyDaemon {
 public:
  Answer operator()(const Asked& asked) {
    const std::lock_guard lock(mu_);
    if (asked.method == "GetStream") {
      streamed_.push_back(asked.As<v1::GetStreamRequest>().key());
      v1::GetStreamResponse header;
      header.mutable_header()->set_found(true);
      header.mutable_header()->mutable_object()->set_size_bytes(streamed_.back().size());
      v1::GetStreamResponse chunk;
      chunk.set_chunk(streamed_.back());
      return {.messages = {header.SerializeAsString(), chunk.SerializeAsString()}};
    }
    ++gets_;
    v1::GetResponse response;
    int values = 0;
    const auto request = asked.As<v1::GetRequest>();
    for (const std::string& key : request.keys()) {
      v1::GetResult& result = *response.add_results();
      if (key == "missing") continue;
      result.set_found(true);
      result.mutable_object()->set_size_bytes(key.size());
      if (++values <= 2) {
        result.set_value(key);
      } else {
        result.set_value_omitted(true);
      }
    }
    return Answer::Of(response);
  }

  std::mutex mu_;
  int gets_ = 0;
  std::vector<std::string> streamed_;
};

TEST(Batches, WhatAnAnswerLeavesOutIsAskedForAgainThenStreamed) {
  StingyDaemon stingy;
  FakeDaemon daemon([&](const Asked& asked) { return stingy(asked); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const std::vector<std::string_view> keys = {"a", "missing", "b", "c", "d", "missing", "e"};
  const std::vector<GetResult> results = client->Get(keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(results[i].hit(), keys[i] != "missing") << keys[i] << results[i].status;
    if (results[i].hit()) {
      EXPECT_EQ(Text(results[i].object->bytes()), keys[i]);
    }
  }
  EXPECT_EQ(stingy.gets_, 2);
  EXPECT_EQ(stingy.streamed_, (std::vector<std::string>{"e"}));
}

TEST(Batches, ValuesAboveTheUnaryLimitAreStreamedAtOnce) {
  StingyDaemon stingy;
  FakeDaemon daemon([&](const Asked& asked) { return stingy(asked); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .max_unary_bytes = 4});
  const std::vector<std::string_view> keys = {"a", "b", "long one", "d"};
  std::vector<std::string> buffers(4, std::string(8, '.'));
  std::vector<std::span<std::byte>> destinations;
  for (std::string& buffer : buffers) {
    destinations.push_back(std::as_writable_bytes(std::span(buffer)));
  }
  client->SubmitGetInto(keys, destinations);
  const std::vector<Completion> completions = WaitFor(*client, 1);
  ASSERT_EQ(completions[0].get_into.size(), 4u);
  for (const GetIntoResult& result : completions[0].get_into) EXPECT_TRUE(result.hit);
  EXPECT_EQ(buffers[2], "long one");
  EXPECT_EQ(buffers[3], "d.......");
  EXPECT_EQ(stingy.streamed_, (std::vector<std::string>{"long one"}));
}

TEST(Batches, PutsAreCutAtTheUnaryLimitInOrder) {
  std::mutex mu;
  std::vector<std::string> calls;
  FakeDaemon daemon([&](const Asked& asked) {
    const std::lock_guard lock(mu);
    if (asked.method == "PutStream") {
      v1::PutStreamRequest header;
      header.ParseFromString(asked.messages[0]);
      calls.push_back("stream " + header.header().key());
      v1::PutStreamResponse response;
      response.set_outcome(v1::PUT_OUTCOME_STORED);
      return Answer::Of(response);
    }
    calls.push_back("");
    v1::PutResponse response;
    const auto request = asked.As<v1::PutRequest>();
    for (const v1::PutItem& item : request.items()) {
      calls.back() += item.key();
      response.add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    }
    return Answer::Of(response);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .max_unary_bytes = 1000});
  const std::string small(300, 's');
  const std::string large(1001, 'l');
  const std::string exact(1000, 'e');
  const std::vector<PutItem> items = {Item("a", small), Item("b", small), Item("c", small),
                                      Item("d", large), Item("e", exact), Item("f", small)};
  for (const PutResult& result : client->Put(items)) {
    EXPECT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  EXPECT_EQ(calls, (std::vector<std::string>{"ab", "c", "stream d", "e", "f"}));
}

// 65,536 keys fit in one call, one more does not; the call with the batch's head comes last, so
// that the head is used last.
TEST(Batches, KeysAreCutAtTheDaemonsLimit) {
  std::mutex mu;
  std::vector<int> sizes;
  FakeDaemon daemon([&](const Asked& asked) {
    const auto request = asked.As<v1::MatchRequest>();
    const std::lock_guard lock(mu);
    sizes.push_back(request.keys_size());
    v1::MatchResponse response;
    std::string bits((request.keys_size() + 7) / 8, '\0');
    for (int i = 0; i < request.keys_size(); ++i) {
      if (request.keys(i) != "hole") bits[i / 8] |= static_cast<char>(1 << (i % 8));
      response.add_size_bytes(request.keys(i).size());
    }
    response.set_present(bits);
    return Answer::Of(response);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  std::vector<std::string_view> keys(65'536, "k");
  EXPECT_EQ(client->Match(keys).prefix_length, 65'536u);
  keys.push_back("hole");
  keys.push_back("longer");
  const MatchResult match = client->Match(keys);
  EXPECT_EQ(match.prefix_length, 65'536u);
  EXPECT_FALSE(match.present[65'536]);
  EXPECT_TRUE(match.present[65'537]);
  EXPECT_EQ(match.size_bytes[65'537], 6u);
  EXPECT_EQ(sizes, (std::vector<int>{65'536, 65'536, 2}));
}

TEST(Credentials, TheTokenGoesWithEveryCall) {
  std::mutex mu;
  std::vector<std::string> seen;
  FakeDaemon daemon([&](const Asked& asked) {
    const std::lock_guard lock(mu);
    seen.push_back(asked.authorization);
    return Answer{.status = {grpc::StatusCode::UNAUTHENTICATED, "unknown token"}};
  });
  auto client =
      ConnectOrDie({.endpoint = daemon.endpoint(), .bearer_token = "secret", .max_unary_bytes = 1});
  EXPECT_TRUE(absl::IsUnauthenticated(client->Get("k").status));
  EXPECT_TRUE(absl::IsUnauthenticated(client->Put(Item("k", "streamed")).status));
  EXPECT_TRUE(absl::IsUnauthenticated(client->Ping()));
  EXPECT_EQ(seen, std::vector<std::string>(3, "Bearer secret"));
}

}  // namespace
}  // namespace infercache

// Submit, wait on the descriptor, drain; and what the destructor does with the rest.

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "common/unique_fd.h"
#include "tests/client/client_testing.h"
#include "tests/client/fake_daemon.h"

namespace infercache {
namespace {

// Every key is there; its value is the key.
Answer Echo(const Asked& asked) {
  if (asked.method == "Get") {
    v1::GetResponse response;
    const auto request = asked.As<v1::GetRequest>();
    for (const std::string& key : request.keys()) {
      v1::GetResult& result = *response.add_results();
      result.set_found(true);
      result.set_value(key);
      result.mutable_object()->set_size_bytes(key.size());
    }
    return Answer::Of(response);
  }
  if (asked.method == "Put") {
    v1::PutResponse response;
    for (int i = 0; i < asked.As<v1::PutRequest>().items_size(); ++i) {
      response.add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    }
    return Answer::Of(response);
  }
  if (asked.method == "Exists") {
    v1::ExistsResponse response;
    response.set_present(std::string((asked.As<v1::ExistsRequest>().keys_size() + 7) / 8, '\xff'));
    return Answer::Of(response);
  }
  return {.status = {grpc::StatusCode::UNIMPLEMENTED, "not in this test"}};
}

TEST(Async, EpollSeesEachCompletionOnce) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {.events = EPOLLIN, .data = {}};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, client->event_fd(), &event), 0);
  EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 0);

  std::map<RequestId, std::string> expected;
  for (int i = 0; i < 200; ++i) {
    const std::string key = "key" + std::to_string(i);
    const std::string_view view = key;
    expected[client->SubmitGet(std::span(&view, 1))] = key;
  }
  EXPECT_EQ(expected.size(), 200u) << "ids are unique";
  while (!expected.empty()) {
    ASSERT_EQ(epoll_wait(epoll.get(), &event, 1, 20'000), 1);
    for (const Completion& completion : client->Drain()) {
      const auto it = expected.find(completion.id);
      ASSERT_NE(it, expected.end());
      ASSERT_EQ(completion.get.size(), 1u);
      ASSERT_TRUE(completion.get[0].hit()) << completion.get[0].status;
      EXPECT_EQ(Text(completion.get[0].object->bytes()), it->second);
      EXPECT_TRUE(completion.put.empty());
      expected.erase(it);
    }
  }
  EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 0) << "drained, yet readable";
}

TEST(Async, FillsTheMemberThatTheCallNames) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const std::vector<std::string_view> keys = {"abc", "de"};
  const std::vector<PutItem> items = {Item("abc", "v")};
  std::string buffer(3, ' ');
  const std::vector<std::span<std::byte>> destinations = {std::as_writable_bytes(std::span(buffer)),
                                                          {}};
  const RequestId get_into = client->SubmitGetInto(keys, destinations);
  const RequestId put = client->SubmitPut(items);
  const RequestId exists = client->SubmitExists(keys);
  const RequestId match = client->SubmitMatch(keys);
  for (const Completion& completion : WaitFor(*client, 4)) {
    EXPECT_EQ(completion.get_into.size(), completion.id == get_into ? 2u : 0u);
    EXPECT_EQ(completion.put.size(), completion.id == put ? 1u : 0u);
    EXPECT_EQ(completion.keys.has_value(), completion.id == exists);
    EXPECT_EQ(completion.match.has_value(), completion.id == match);
    if (completion.id == get_into) {
      EXPECT_TRUE(completion.get_into[0].hit);
      EXPECT_TRUE(absl::IsOutOfRange(completion.get_into[1].status));
      EXPECT_EQ(completion.get_into[1].size_bytes, 2u);
    }
    if (completion.id == match) {
      EXPECT_TRUE(absl::IsUnimplemented(completion.match->status));
    }
  }
  EXPECT_EQ(buffer, "abc");
}

TEST(Async, EmptyBatchesCompleteWithoutACall) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  std::set<RequestId> ids = {client->SubmitGet({}),    client->SubmitGetInto({}, {}),
                             client->SubmitPut({}),    client->SubmitMatch({}),
                             client->SubmitExists({}), client->SubmitDelete({}),
                             client->SubmitTouch({})};
  for (const Completion& completion : WaitFor(*client, 7)) {
    EXPECT_EQ(ids.erase(completion.id), 1u);
    if (completion.match) {
      EXPECT_TRUE(completion.match->status.ok());
    }
    if (completion.keys) {
      EXPECT_TRUE(completion.keys->status.ok());
    }
  }
  EXPECT_TRUE(ids.empty());
  EXPECT_EQ(daemon.calls(), 0);
}

TEST(Async, ADestinationPerKeyOrNothing) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const std::vector<std::string_view> keys = {"a", "b"};
  client->SubmitGetInto(keys, {});
  const std::vector<Completion> completions = WaitFor(*client, 1);
  ASSERT_EQ(completions[0].get_into.size(), 2u);
  EXPECT_TRUE(absl::IsInvalidArgument(completions[0].get_into[1].status));
}

TEST(Async, SynchronousCallsDoNotShowInDrain) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  EXPECT_TRUE(client->Get("k").hit());
  EXPECT_TRUE(client->Drain().empty());
}

// Memory that the caller frees right after the destructor: any later access is a fault.
TEST(Async, TheDestructorLetsGoOfTheCallersMemory) {
  constexpr size_t kBytes = 8 << 20;
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); }, {"PutStream"});
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 'x', kBytes);
  const std::span<std::byte> bytes(static_cast<std::byte*>(memory), kBytes);
  auto client = ConnectOrDie(
      {.endpoint = daemon.endpoint(), .deadline = absl::Hours(1), .max_unary_bytes = 4 << 20});
  const std::vector<PutItem> streamed = {{.key = "large", .value = {bytes}}};
  const std::vector<PutItem> unary = {{.key = "small", .value = {bytes.first(1 << 20)}}};
  const std::string_view key = "key";
  for (int i = 0; i < 4; ++i) {
    client->SubmitPut(streamed);
    client->SubmitPut(unary);
    client->SubmitGetInto(std::span(&key, 1), std::span(&bytes, 1));
  }
  ASSERT_TRUE(Eventually([&] { return daemon.calls() == 12; })) << daemon.calls();
  const absl::Time start = absl::Now();
  client.reset();
  ASSERT_EQ(munmap(memory, kBytes), 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_TRUE(Eventually([&] { return daemon.cancelled() == 12; })) << daemon.cancelled();
}

TEST(Async, ObjectsOutliveTheirClient) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  GetResult got = client->Get("a value that is longer than any small buffer");
  client.reset();
  ASSERT_TRUE(got.hit());
  const Object moved = *std::move(got.object);
  EXPECT_EQ(Text(moved.bytes()), "a value that is longer than any small buffer");
  EXPECT_EQ(Text(moved.part(0)), Text(moved.bytes()));
}

TEST(Async, ManyThreadsShareAClient) {
  FakeDaemon daemon(Echo);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&client, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string key = std::to_string(t) + "/" + std::to_string(i);
        const GetResult got = client->Get(key);
        ASSERT_TRUE(got.hit()) << got.status;
        ASSERT_EQ(Text(got.object->bytes()), key);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace infercache

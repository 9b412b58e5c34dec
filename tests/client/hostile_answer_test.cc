// Daemons that answer nonsense: every verb turns it into a status.

#include <gtest/gtest.h>

#include <random>

#include "tests/client/client_testing.h"
#include "tests/client/fake_daemon.h"

namespace infercache {
namespace {

const std::vector<std::string_view> kTwoKeys = {"a", "b"};

// The status of one call of each verb, every one of which asks for two keys or items.
std::vector<std::pair<std::string, absl::Status>> AskAll(Client& client) {
  const std::vector<PutItem> items = {Item("a", "1"), Item("b", "2")};
  return {{"Get", client.Get(kTwoKeys)[1].status},    {"Put", client.Put(items)[1].status},
          {"Match", client.Match(kTwoKeys).status},   {"Exists", client.Exists(kTwoKeys).status},
          {"Delete", client.Delete(kTwoKeys).status}, {"Touch", client.Touch(kTwoKeys).status},
          {"List", client.List("").status},           {"Ping", client.Ping()}};
}

TEST(HostileAnswer, GarbageIsAnErrorEverywhere) {
  for (const std::string& garbage :
       {std::string("\xff\xff\xff\xff"), std::string("\x0a\x7f"), std::string(100'000, '\xaa')}) {
    FakeDaemon daemon([&](const Asked&) { return Answer{.messages = {garbage}}; });
    auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
    for (const auto& [verb, status] : AskAll(*client)) {
      EXPECT_TRUE(absl::IsInternal(status)) << verb << ": " << status;
    }
  }
}

TEST(HostileAnswer, AnswersForNobodyAreErrors) {
  FakeDaemon daemon([](const Asked&) { return Answer{.messages = {""}}; });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  for (const auto& [verb, status] : AskAll(*client)) {
    if (verb == "List") {
      EXPECT_TRUE(status.ok()) << "an empty list is an answer";
    } else if (verb == "Ping") {
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    } else {
      EXPECT_TRUE(absl::IsInternal(status)) << verb << ": " << status;
    }
  }
}

TEST(HostileAnswer, NoMessageOrTwoMessagesAreErrors) {
  for (const size_t count : {0, 2}) {
    FakeDaemon daemon(
        [&](const Asked&) { return Answer{.messages = std::vector<std::string>(count, "")}; });
    auto client = ConnectOrDie({.endpoint = daemon.endpoint(),
                                .deadline = absl::Milliseconds(200),
                                .breaker_failures = 0});
    for (const auto& [verb, status] : AskAll(*client)) {
      // gRPC itself may drop the second message of a unary answer: an empty list stays one.
      if (verb == "List" && count == 2) continue;
      EXPECT_FALSE(status.ok()) << verb << " with " << count;
    }
  }
}

TEST(HostileAnswer, WrongCountsAreErrors) {
  FakeDaemon daemon([](const Asked& asked) {
    v1::GetResponse get;
    v1::PutResponse put;
    v1::MatchResponse match;
    v1::ExistsResponse bits;
    for (int i = 0; i < 3; ++i) {
      get.add_results();
      put.add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    }
    match.set_present("\x03");
    match.add_size_bytes(1);
    bits.set_present("\x03\x00", 2);
    if (asked.method == "Get") return Answer::Of(get);
    if (asked.method == "Put") return Answer::Of(put);
    if (asked.method == "Match") return Answer::Of(match);
    return Answer::Of(bits);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const std::vector<PutItem> items = {Item("a", "1"), Item("b", "2")};
  EXPECT_TRUE(absl::IsInternal(client->Get(kTwoKeys)[0].status));
  EXPECT_TRUE(absl::IsInternal(client->Put(items)[0].status));
  EXPECT_TRUE(absl::IsInternal(client->Match(kTwoKeys).status));
  EXPECT_TRUE(absl::IsInternal(client->Exists(kTwoKeys).status));
  EXPECT_TRUE(absl::IsInternal(client->Delete(kTwoKeys).status));
  EXPECT_TRUE(absl::IsInternal(client->Touch(kTwoKeys).status));
}

// Mutations of a good answer, through the whole client: what comes back is whole or an error.
TEST(HostileAnswer, MutatedAnswersYieldWholeObjectsOrErrors) {
  v1::GetResponse good;
  v1::GetResult& result = *good.add_results();
  result.set_found(true);
  result.mutable_object()->set_size_bytes(8);
  v1::PartSpec& part = *result.mutable_object()->add_parts();
  part.set_dtype(v1::DATA_TYPE_FLOAT32);
  part.add_shape(2);
  part.set_size_bytes(8);
  result.set_value("01234567");
  const std::string whole = good.SerializeAsString();
  std::minstd_rand random(5);
  FakeDaemon daemon([&](const Asked&) {
    std::string mutated = whole;
    for (unsigned k = 0; k < random() % 3; ++k) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0) mutated.resize(random() % mutated.size());
    return Answer{.messages = {mutated}};
  });
  auto client = ConnectOrDie(
      {.endpoint = daemon.endpoint(), .deadline = absl::Milliseconds(500), .breaker_failures = 0});
  int hits = 0;
  int errors = 0;
  for (int i = 0; i < 3000; ++i) {
    const GetResult got = client->Get("k");
    errors += !got.status.ok();
    if (!got.hit()) continue;
    ++hits;
    uint64_t size_bytes = 0;
    for (const PartSpec& p : got.object->parts()) size_bytes += p.size_bytes;
    ASSERT_EQ(size_bytes, got.object->bytes().size());
  }
  EXPECT_GT(hits, 100);
  EXPECT_GT(errors, 100);
}

TEST(HostileAnswer, AValueTooLargeForItsBufferWritesNothing) {
  FakeDaemon daemon([](const Asked&) {
    v1::GetResponse response;
    v1::GetResult& result = *response.add_results();
    result.set_found(true);
    result.mutable_object()->set_size_bytes(9);
    result.set_value("123456789");
    return Answer::Of(response);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  std::string buffer(8, '.');
  const GetIntoResult got = client->GetInto("k", std::as_writable_bytes(std::span(buffer)));
  EXPECT_TRUE(absl::IsOutOfRange(got.status)) << got.status;
  EXPECT_FALSE(got.hit);
  EXPECT_EQ(got.size_bytes, 9u);
  EXPECT_EQ(buffer, std::string(8, '.'));
}

v1::GetStreamResponse StreamHeader(uint64_t size_bytes) {
  v1::GetStreamResponse message;
  message.mutable_header()->set_found(true);
  message.mutable_header()->mutable_object()->set_size_bytes(size_bytes);
  return message;
}

std::string Chunk(const std::string& bytes) {
  v1::GetStreamResponse message;
  message.set_chunk(bytes);
  return message.SerializeAsString();
}

// A get whose value the daemon always leaves out, so that it ends as a stream with these messages.
GetResult GetByStream(std::vector<std::string> messages, grpc::Status status = grpc::Status::OK) {
  FakeDaemon daemon([&](const Asked& asked) {
    if (asked.method == "GetStream") return Answer{.messages = messages, .status = status};
    v1::GetResponse response;
    v1::GetResult& result = *response.add_results();
    result.set_found(true);
    result.set_value_omitted(true);
    result.mutable_object()->set_size_bytes(6);
    return Answer::Of(response);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  return client->Get("k");
}

TEST(HostileStream, ChunksMakeAnObject) {
  const std::string header = StreamHeader(6).SerializeAsString();
  const GetResult got = GetByStream({header, Chunk("abc"), Chunk(""), Chunk("def")});
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Text(got.object->bytes()), "abcdef");
}

TEST(HostileStream, AnObjectThatWentAwayMeanwhileIsAMiss) {
  v1::GetStreamResponse gone;
  gone.mutable_header();
  const GetResult got = GetByStream({gone.SerializeAsString()});
  EXPECT_FALSE(got.hit());
  EXPECT_TRUE(got.status.ok()) << got.status;
}

TEST(HostileStream, AnythingElseIsAnError) {
  const std::string header = StreamHeader(6).SerializeAsString();
  const auto error = [](std::vector<std::string> messages) {
    const GetResult got = GetByStream(std::move(messages));
    return !got.hit() && absl::IsInternal(got.status);
  };
  EXPECT_TRUE(error({})) << "nothing";
  EXPECT_TRUE(error({header})) << "no bytes";
  EXPECT_TRUE(error({header, Chunk("abc")})) << "too few bytes";
  EXPECT_TRUE(error({header, Chunk("abcdefg")})) << "too many bytes";
  EXPECT_TRUE(error({header, Chunk("abcdef"), Chunk("g")})) << "one more chunk";
  EXPECT_TRUE(error({Chunk("abcdef")})) << "no header";
  EXPECT_TRUE(error({header, header, Chunk("abcdef")})) << "two headers";
  EXPECT_TRUE(error({header, "\xff"})) << "garbage";
  EXPECT_TRUE(error({"\xff"})) << "garbage at once";
  EXPECT_TRUE(error({StreamHeader(~uint64_t{0}).SerializeAsString()})) << "an absurd size";
}

TEST(HostileStream, TheDaemonsErrorIsPassedOn) {
  const std::string header = StreamHeader(6).SerializeAsString();
  const GetResult got = GetByStream({header, Chunk("abc")},
                                    {grpc::StatusCode::RESOURCE_EXHAUSTED, "too much is pinned"});
  EXPECT_FALSE(got.hit());
  EXPECT_TRUE(absl::IsResourceExhausted(got.status)) << got.status;
  EXPECT_EQ(got.status.message(), "too much is pinned");
}

PutResult PutByStream(Answer answer, std::vector<std::string> early = {}) {
  FakeDaemon daemon([&](const Asked&) { return answer; }, std::move(early));
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .max_unary_bytes = 1});
  const std::string value(5 << 20, 'v');
  return client->Put(Item("k", value));
}

TEST(HostileStream, PutsAnsweredEarlyOrWrongly) {
  v1::PutStreamResponse exists;
  exists.set_outcome(v1::PUT_OUTCOME_EXISTS);
  EXPECT_EQ(PutByStream(Answer::Of(exists)).outcome, PutOutcome::kExists);
  EXPECT_EQ(PutByStream(Answer::Of(exists), {"PutStream"}).outcome, PutOutcome::kExists)
      << "answered after the header";
  const PutResult full =
      PutByStream({.status = {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"}}, {"PutStream"});
  EXPECT_EQ(full.outcome, PutOutcome::kRefused);
  EXPECT_TRUE(absl::IsResourceExhausted(full.status)) << full.status;
  for (const Answer& wrong :
       {Answer{}, Answer{.messages = {""}}, Answer{.messages = {"\xff"}},
        Answer{.messages = std::vector<std::string>(2, exists.SerializeAsString())}}) {
    const PutResult result = PutByStream(wrong);
    EXPECT_EQ(result.outcome, PutOutcome::kRefused);
    EXPECT_TRUE(absl::IsInternal(result.status)) << result.status;
  }
}

TEST(HostileAnswer, PutOutcomesAndCodesArePassedOn) {
  FakeDaemon daemon([](const Asked&) {
    v1::PutResponse response;
    response.add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    response.add_results()->set_outcome(v1::PUT_OUTCOME_EXISTS);
    v1::PutResult& refused = *response.add_results();
    refused.set_outcome(v1::PUT_OUTCOME_REFUSED);
    refused.set_code(8);
    refused.set_message("full");
    v1::PutResult& odd = *response.add_results();
    odd.set_outcome(v1::PUT_OUTCOME_REFUSED);
    odd.set_code(-7);
    response.add_results()->set_outcome(v1::PutOutcome(99));
    return Answer::Of(response);
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  const std::vector<PutItem> items(5, Item("k", "v"));
  const std::vector<PutResult> results = client->Put(items);
  EXPECT_EQ(results[0].outcome, PutOutcome::kStored);
  EXPECT_TRUE(results[0].status.ok());
  EXPECT_EQ(results[1].outcome, PutOutcome::kExists);
  EXPECT_EQ(results[2].outcome, PutOutcome::kRefused);
  EXPECT_TRUE(absl::IsResourceExhausted(results[2].status));
  EXPECT_EQ(results[2].status.message(), "full");
  EXPECT_TRUE(absl::IsUnknown(results[3].status));
  EXPECT_TRUE(absl::IsInternal(results[4].status));
}

}  // namespace
}  // namespace infercache

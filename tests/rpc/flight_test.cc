// Cache.Flight as any client in any language would use it, rightly and wrongly.

#include <thread>

#include "common/limits.h"
#include "server/rpc/flight_stream.h"
#include "tests/build_kind.h"
#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

// One stream. Its end, if not asked for, comes with the object's.
class Stream {
 public:
  explicit Stream(v1::Cache::Stub& cache) : stream_(cache.Flight(&context_)) {}
  ~Stream() {
    context_.TryCancel();
    if (!ended_) Finish();
  }

  Stream& Open(const std::string& ns = "default") {
    v1::FlightRequest request;
    request.mutable_open()->mutable_scope()->set_namespace_(ns);
    stream_->Write(request);
    return *this;
  }
  void Ask(const std::vector<std::string>& keys, uint64_t id = 7, uint64_t wait_ms = 60'000) {
    v1::FlightRequest request;
    request.mutable_ask()->set_id(id);
    request.mutable_ask()->set_wait_ms(wait_ms);
    for (const std::string& key : keys) request.mutable_ask()->add_keys(key);
    stream_->Write(request);
  }
  void GiveUp(uint64_t claim) {
    v1::FlightRequest request;
    request.mutable_give_up()->add_claims(claim);
    stream_->Write(request);
  }
  void Send(const v1::FlightRequest& request) { stream_->Write(request); }

  v1::ClaimEvent Next() {
    while (events_.empty()) {
      v1::FlightResponse response;
      if (!stream_->Read(&response)) {
        ADD_FAILURE() << "the stream has ended";
        return {};
      }
      events_.assign(response.events().begin(), response.events().end());
    }
    v1::ClaimEvent event = events_.front();
    events_.erase(events_.begin());
    return event;
  }
  v1::ClaimState NextState() { return Next().answer().state(); }
  // No more is said by this side.
  void Close() { stream_->WritesDone(); }
  // Reads to the end.
  grpc::Status Finish() {
    v1::FlightResponse response;
    while (stream_->Read(&response)) {
    }
    ended_ = true;
    return stream_->Finish();
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FlightRequest, v1::FlightResponse>> stream_;
  std::vector<v1::ClaimEvent> events_;
  bool ended_ = false;
};

class FlightStreamTest : public RpcTest {
 protected:
  store::ClaimStats claims() { return DefaultNamespace()->Stats().claims; }
  bool NothingIsClaimed() {
    return Eventually([this] { return claims().claims + claims().waiters == 0; });
  }
  grpc::Status EndOf(const v1::FlightRequest& request, bool open = true) {
    Stream stream(*cache);
    if (open) stream.Open();
    stream.Send(request);
    return stream.Finish();
  }
};

TEST_F(FlightStreamTest, OneWinsAndTheOthersHearOfThePut) {
  Start();
  Stream a(*cache), b(*cache);
  a.Open().Ask({"k"});
  const v1::ClaimEvent won = a.Next();
  EXPECT_EQ(won.request(), 7u);
  EXPECT_EQ(won.answer().state(), v1::CLAIM_STATE_WIN);
  EXPECT_EQ(won.answer().claim_ms(), kDefaultClaimMs);
  b.Open().Ask({"other", "k"}, 9);
  EXPECT_EQ(b.NextState(), v1::CLAIM_STATE_WIN);
  EXPECT_EQ(b.NextState(), v1::CLAIM_STATE_WAIT);
  Store("k", "value");
  const v1::ClaimEvent hit = b.Next();
  EXPECT_EQ(hit.answer().state(), v1::CLAIM_STATE_HIT);
  EXPECT_EQ(hit.request(), 9u);
  EXPECT_EQ(hit.index(), 1u);
  a.Ask({"k"});
  EXPECT_EQ(a.NextState(), v1::CLAIM_STATE_HIT);
  a.Close();
  EXPECT_TRUE(a.Finish().ok());
}

TEST_F(FlightStreamTest, EveryEndPassesItsClaimsOn) {
  Start();
  Stream last(*cache);
  last.Open();
  for (const std::string way : {"close", "cancel", "give up"}) {
    Stream first(*cache);
    first.Open().Ask({way});
    const v1::ClaimEvent won = first.Next();
    last.Ask({way});
    EXPECT_EQ(last.NextState(), v1::CLAIM_STATE_WAIT);
    if (way == "close") first.Close();
    if (way == "cancel") first.Cancel();
    if (way == "give up") first.GiveUp(won.answer().claim());
    EXPECT_EQ(last.NextState(), v1::CLAIM_STATE_WIN) << way;
  }
  last.Cancel();
  EXPECT_TRUE(NothingIsClaimed());
}

TEST_F(FlightStreamTest, AWaitThatIsGivenUpHearsNothing) {
  Start();
  Stream a(*cache), b(*cache);
  a.Open().Ask({"k"});
  const uint64_t claim = a.Next().answer().claim();
  b.Open().Ask({"k"}, /*id=*/1);
  EXPECT_EQ(b.NextState(), v1::CLAIM_STATE_WAIT);
  b.GiveUp(claim + 1);  // the next ticket is the wait's
  EXPECT_TRUE(Eventually([this] { return claims().waiters == 0; }));
  a.GiveUp(claim);
  b.Ask({"k"}, /*id=*/2);
  EXPECT_EQ(b.Next().request(), 2u);
}

TEST_F(FlightStreamTest, WaitsEndAtTheirDeadlineAndWithTheNamespace) {
  Start();
  Stream a(*cache), b(*cache);
  a.Open().Ask({"k"});
  EXPECT_EQ(a.NextState(), v1::CLAIM_STATE_WIN);
  b.Open().Ask({"k"}, 1, /*wait_ms=*/50);
  EXPECT_EQ(b.NextState(), v1::CLAIM_STATE_WAIT);
  const v1::ClaimEvent missed = b.Next();
  EXPECT_EQ(missed.answer().state(), v1::CLAIM_STATE_MISS);
  EXPECT_EQ(missed.answer().code(), static_cast<uint32_t>(grpc::DEADLINE_EXCEEDED));
  b.Ask({"k"}, 2, /*wait_ms=*/0);
  EXPECT_EQ(b.Next().answer().code(), 0u);
  ASSERT_TRUE(store->DeleteNamespace("default").ok());
  EXPECT_EQ(b.Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(a.Finish().error_code(), grpc::UNAVAILABLE);
}

TEST_F(FlightStreamTest, ADrainEndsItAtOnce) {
  Start();
  Stream a(*cache);
  a.Open().Ask({"k"});
  EXPECT_EQ(a.NextState(), v1::CLAIM_STATE_WIN);
  server->BeginDrain();
  EXPECT_EQ(a.Finish().error_code(), grpc::UNAVAILABLE);
  Stream late(*cache);
  EXPECT_EQ(late.Open().Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(NothingIsClaimed());
}

TEST_F(FlightStreamTest, MalformedUseEndsItWithAReason) {
  Start();
  v1::FlightRequest ask;
  ask.mutable_ask()->add_keys("k");
  EXPECT_EQ(ReasonOf(EndOf(ask, /*open=*/false)), "INVALID_FLIGHT");
  v1::FlightRequest give_up;
  give_up.mutable_give_up()->add_claims(1);
  EXPECT_EQ(ReasonOf(EndOf(give_up, /*open=*/false)), "INVALID_FLIGHT");
  EXPECT_EQ(ReasonOf(EndOf({})), "INVALID_FLIGHT");
  v1::FlightRequest open;
  open.mutable_open();
  EXPECT_EQ(ReasonOf(EndOf(open)), "INVALID_FLIGHT") << "a second one";
  v1::FlightRequest too_long = ask;
  too_long.mutable_ask()->set_wait_ms(kMaxWaitMs + 1);
  EXPECT_EQ(ReasonOf(EndOf(too_long)), "INVALID_FLIGHT");
  too_long = ask;
  too_long.mutable_ask()->set_claim_ms(kMaxClaimMs + 1);
  EXPECT_EQ(ReasonOf(EndOf(too_long)), "INVALID_FLIGHT");
  v1::FlightRequest bad_key = ask;
  bad_key.mutable_ask()->add_keys("");
  EXPECT_EQ(EndOf(bad_key).error_code(), grpc::INVALID_ARGUMENT);
  v1::FlightRequest too_many;
  for (size_t i = 0; i <= kMaxItemsPerFrame; ++i) too_many.mutable_ask()->add_keys("k");
  EXPECT_EQ(ReasonOf(EndOf(too_many)), "INVALID_FLIGHT");
  Stream nowhere(*cache);
  EXPECT_EQ(nowhere.Open("no such namespace").Finish().error_code(), grpc::NOT_FOUND);
  EXPECT_TRUE(NothingIsClaimed());
}

TEST_F(FlightStreamTest, AClientThatDoesNotReadIsNotReadFrom) {
  Start();
  Store("k", "value");
  Stream stream(*cache);
  stream.Open();
  const std::vector<std::string> keys(kMaxItemsPerFrame, "k");
  constexpr int kAsks = kAddressSanitizer ? 8 : 16;  // more than the connection's window takes
  std::thread asking([&] {
    for (int i = 0; i < kAsks; ++i) stream.Ask(keys);
  });
  for (size_t i = 0; i < kAsks * kMaxItemsPerFrame; ++i) {
    ASSERT_EQ(stream.NextState(), v1::CLAIM_STATE_HIT);
  }
  asking.join();
}

// The end of a stream has to wait for the write under way, and once did so for ever.
TEST_F(FlightStreamTest, AClientThatLeavesItsAnswersUnreadLeavesNoStream) {
  Start();
  Store("k", "value");
  const std::vector<std::string> keys(kMaxItemsPerFrame, "k");
  for (int i = 0; i < 10; ++i) {
    Stream stream(*cache);
    stream.Open();
    // More than the connection's window takes.
    for (int ask = 0; ask < 8; ++ask) stream.Ask(keys);
    EXPECT_EQ(stream.NextState(), v1::CLAIM_STATE_HIT);
    stream.Cancel();
  }
  EXPECT_TRUE(Eventually([this] { return server->stats().calls_in_flight == 0; }));
}

// A few connections could take all calls that there may be, for good, and without a credential.
TEST_F(FlightStreamTest, StreamsHaveALimitInAllAndForAConnection) {
  options.max_concurrent_calls = 4 * (FlightStreams::kMaxPerConnection + 1);
  Start();
  std::vector<std::unique_ptr<Stream>> streams;
  const auto open = [&](v1::Cache::Stub& stub) {
    streams.push_back(std::make_unique<Stream>(stub));
    streams.back()->Open().Ask({"k"}, 1, /*wait_ms=*/0);
    return streams.back().get();
  };
  for (size_t i = 0; i < FlightStreams::kMaxPerConnection; ++i) open(*cache)->Next();
  EXPECT_EQ(ReasonOf(open(*cache)->Finish()), "FLIGHTS_LIMIT") << "of this connection";
  const auto other = v1::Cache::NewStub(Connect(server->addresses()[0]));
  open(*other)->Next();
  EXPECT_EQ(ReasonOf(open(*other)->Finish()), "FLIGHTS_LIMIT") << "of all";
  EXPECT_TRUE(Get(MakeGet({"k"})).ok());
  streams.clear();
  EXPECT_TRUE(Eventually([this] { return server->stats().calls_in_flight == 0; }));
  EXPECT_EQ(open(*other)->NextState(), v1::CLAIM_STATE_WIN);
}

TEST_F(FlightStreamTest, AStreamHasALimitOfClaims) {
  Start();
  Stream stream(*cache);
  stream.Open();
  std::vector<std::string> keys;
  for (size_t i = 0; i <= kMaxClaimsPerParty; ++i) {
    keys.push_back("k" + std::to_string(i));
    if (keys.size() < kMaxItemsPerFrame && i < kMaxClaimsPerParty) continue;
    stream.Ask(keys);
    keys.clear();
  }
  for (size_t i = 0; i < kMaxClaimsPerParty; ++i) {
    ASSERT_EQ(stream.NextState(), v1::CLAIM_STATE_WIN);
  }
  EXPECT_EQ(stream.Next().answer().code(), static_cast<uint32_t>(grpc::RESOURCE_EXHAUSTED));
}

}  // namespace
}  // namespace infercache::rpc

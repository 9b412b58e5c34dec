// PutStream and GetStream, and what is left when they break off.

#include <gtest/gtest.h>

#include <thread>

#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

class StreamTest : public RpcTest {
 protected:
  // Stores a chain of six blocks, reads them one by one from the first on, and makes others go for
  // room. Says which of the blocks are left, a bit each.
  uint8_t LeftAfterStreams(bool counted) {
    Start();
    v1::PutRequest chain;
    v1::MatchRequest match;
    for (int i = 0; i < 6; ++i) {
      *chain.add_items() = MakePut("block" + std::to_string(i), Pattern(kMiB, i)).items(0);
      match.add_keys("block" + std::to_string(i));
    }
    EXPECT_TRUE(Put(chain).ok());
    for (const std::string& key : match.keys()) {
      v1::GetStreamRequest get;
      get.set_key(key);
      get.set_counted(counted);
      std::string received;
      EXPECT_TRUE(GetStream(get, &received).ok());
      EXPECT_EQ(received.size(), kMiB);
    }
    for (int i = 0; i < 4; ++i) Store("other" + std::to_string(i), Pattern(kMiB, 100 + i));
    v1::MatchResponse found;
    grpc::ClientContext context;
    EXPECT_TRUE(cache->Match(&context, match, &found).ok());
    return static_cast<uint8_t>(found.present()[0]);
  }
  void ExpectInvalid(const std::vector<v1::PutStreamRequest>& messages, const std::string& what) {
    const store::NamespaceStats before = DefaultNamespace()->Stats();
    const grpc::Status status = PutStream(messages);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << what;
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr(what));
    EXPECT_TRUE(IsIdle()) << what;
    EXPECT_EQ(DefaultNamespace()->Stats().used_bytes, before.used_bytes) << what;
    EXPECT_EQ(DefaultNamespace()->Stats().objects, before.objects) << what;
  }
};

TEST_F(StreamTest, CarriesAnObjectBothWays) {
  Start();
  const std::string value = Pattern(5'000'000, 7);
  std::vector<v1::PutStreamRequest> messages = {StreamHeader("k", value.size())};
  for (size_t at = 0; at < value.size(); at += 777'777) {
    messages.push_back(StreamChunk(value.substr(at, 777'777)));
  }
  v1::PutStreamResponse response;
  const grpc::Status put = PutStream(messages, &response);
  ASSERT_TRUE(put.ok()) << put.error_message();
  EXPECT_EQ(response.outcome(), v1::PUT_OUTCOME_STORED);

  for (const uint32_t chunk_bytes : {0u, 4096u, 4u << 20}) {
    v1::GetStreamRequest get;
    get.set_key("k");
    get.set_chunk_bytes(chunk_bytes);
    std::string received;
    v1::GetStreamHeader header;
    const grpc::Status status = GetStream(get, &received, &header);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(header.found());
    EXPECT_EQ(header.object().size_bytes(), value.size());
    EXPECT_TRUE(received == value) << chunk_bytes;
  }
}

TEST_F(StreamTest, ServesAnObjectAboveEveryBoundBesideOthers) {
  options.max_pinned_bytes = kMiB;
  Start();
  Store("small", "s");
  const std::string value = Pattern(5'000'000, 7);
  Store("k", value);
  v1::GetResponse whole;
  ASSERT_TRUE(Get(MakeGet({"k"}), &whole).ok());
  EXPECT_TRUE(whole.results(0).value_omitted());
  v1::GetStreamRequest get;
  get.set_key("k");
  grpc::ClientContext context;
  const auto reader = cache->GetStream(&context, get);
  v1::GetStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  // Half of the connection's half, once the answer before it is gone.
  EXPECT_TRUE(Eventually([this] { return server->stats().pinned_response_bytes == kMiB / 4; }));
  EXPECT_EQ(Load("small"), "s");
  std::string received;
  while (reader->Read(&message)) received += message.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(received == value);
}

TEST_F(StreamTest, IsAUseOfItsOwn) {
  EXPECT_EQ(LeftAfterStreams(/*counted=*/false) & 1, 0) << "the first was the first one used";
}

TEST_F(StreamTest, IsNoUseIfAnotherCallWasIt) {
  const uint8_t left = LeftAfterStreams(/*counted=*/true);
  EXPECT_GT(left, 0);
  EXPECT_EQ(left & (left + 1), 0) << "a block stands behind a hole";
}

TEST_F(StreamTest, AMissIsNoError) {
  Start();
  v1::GetStreamRequest get;
  get.set_key("none");
  std::string received;
  v1::GetStreamHeader header;
  EXPECT_TRUE(GetStream(get, &received, &header).ok());
  EXPECT_FALSE(header.found());
  EXPECT_TRUE(received.empty());
}

TEST_F(StreamTest, APutOfAKeyThatIsThereAnswersExists) {
  Start();
  Store("k", "v");
  v1::PutStreamResponse response;
  ASSERT_TRUE(PutStream({StreamHeader("k", 3), StreamChunk("new")}, &response).ok());
  EXPECT_EQ(response.outcome(), v1::PUT_OUTCOME_EXISTS);
  EXPECT_EQ(Load("k"), "v");
}

TEST_F(StreamTest, RefusesWhatIsNoStreamOfOneObject) {
  Start();
  ExpectInvalid({}, "before its header");
  ExpectInvalid({StreamChunk("v")}, "must be a header");
  ExpectInvalid({v1::PutStreamRequest()}, "neither header nor chunk");
  ExpectInvalid({StreamHeader("k", 5), StreamHeader("k", 5)}, "second header");
  ExpectInvalid({StreamHeader("k", 5), StreamChunk("1234")}, "after 4 of 5 bytes");
  ExpectInvalid({StreamHeader("k", 5), StreamChunk("123"), StreamChunk("456")}, "size_bytes of 5");
  ExpectInvalid({StreamHeader("k", 0)}, "size_bytes: 0");
  ExpectInvalid({StreamHeader("", 5)}, "key: 0 bytes");
  auto bad_parts = StreamHeader("k", 5);
  bad_parts.mutable_header()->add_parts()->set_size_bytes(6);
  ExpectInvalid({bad_parts}, "");
}

TEST_F(StreamTest, RefusesBadChunkSizes) {
  Start();
  for (const uint32_t chunk_bytes : {1u, 4095u, (4u << 20) + 1}) {
    v1::GetStreamRequest get;
    get.set_key("k");
    get.set_chunk_bytes(chunk_bytes);
    std::string received;
    const grpc::Status status = GetStream(get, &received);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr("chunk_bytes"));
  }
}

TEST_F(StreamTest, AClientThatLeavesInTheMiddleLeavesNothing) {
  Start();
  const store::NamespaceStats before = DefaultNamespace()->Stats();
  {
    grpc::ClientContext context;
    v1::PutStreamResponse response;
    const auto writer = cache->PutStream(&context, &response);
    ASSERT_TRUE(writer->Write(StreamHeader("k", kMiB)));
    ASSERT_TRUE(writer->Write(StreamChunk(Pattern(1000, 1))));
    ASSERT_TRUE(Eventually([this] { return DefaultNamespace()->Stats().reservations == 1; }));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(IsIdle());
  EXPECT_EQ(DefaultNamespace()->Stats().used_bytes, before.used_bytes);
  EXPECT_EQ(Load("k"), std::nullopt);
}

TEST_F(StreamTest, AnUploadThatDoesNotGoOnLosesItsReservation) {
  options.stall_timeout = absl::Seconds(1);
  Start();
  grpc::ClientContext context;
  v1::PutStreamResponse response;
  const auto writer = cache->PutStream(&context, &response);
  ASSERT_TRUE(writer->Write(StreamHeader("k", kMiB)));
  ASSERT_TRUE(Eventually([this] { return DefaultNamespace()->Stats().reservations == 1; }));
  EXPECT_TRUE(Eventually([this] { return DefaultNamespace()->Stats().reservations == 0; }));
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(StreamTest, AnUploadThatTricklesLosesItsReservationToo) {
  options.stall_timeout = absl::Seconds(1);
  Start();
  grpc::ClientContext context;
  v1::PutStreamResponse response;
  const auto writer = cache->PutStream(&context, &response);
  ASSERT_TRUE(writer->Write(StreamHeader("k", kMiB)));
  const absl::Time began = absl::Now();
  while (writer->Write(StreamChunk("x")) && absl::Now() < began + absl::Seconds(15)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // a slow client
  }
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(absl::Now() - began, absl::Seconds(10));
}

TEST_F(StreamTest, AReaderThatLeavesInTheMiddleLeavesNothing) {
  Start();
  Store("k", Pattern(5'000'000, 1));
  {
    v1::GetStreamRequest get;
    get.set_key("k");
    grpc::ClientContext context;
    const auto reader = cache->GetStream(&context, get);
    v1::GetStreamResponse message;
    ASSERT_TRUE(reader->Read(&message));
    EXPECT_EQ(DefaultNamespace()->Stats().pins, 1u);
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(IsIdle());
}

TEST_F(StreamTest, AnObjectErasedWhileItIsReadArrivesWhole) {
  Start();
  const std::string value = Pattern(5'000'000, 3);
  Store("k", value);
  v1::GetStreamRequest get;
  get.set_key("k");
  grpc::ClientContext context;
  const auto reader = cache->GetStream(&context, get);
  v1::GetStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  ASSERT_EQ(DefaultNamespace()->Flush("k"), 1u);
  Store("other", Pattern(2'000'000, 4));
  std::string received;
  while (reader->Read(&message)) received += message.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(received == value);
}

}  // namespace
}  // namespace infercache::rpc

// The demo as its users run it, with a daemon, without one, and with one whose content is wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/examples/prefill_demo/block_keys.h"
#include "client/examples/prefill_demo/model.h"
#include "infercache/client.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::demo {
namespace {

using e2e::DaemonProcess;
using e2e::Finished;
using testing::HasSubstr;
using testing::Not;

constexpr size_t kDocumentTokens = 2 * kBlockTokens + 40;

// A document of two blocks and a bit, a model of one layer: the demo in a fraction of a second.
class PrefillDemoTest : public testing::Test {
 protected:
  Finished RunDemo(const std::string& endpoint, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"--endpoint",        endpoint,
                                          "--document",        document_,
                                          "--document-tokens", std::to_string(kDocumentTokens),
                                          "--answer-tokens",   "2",
                                          "--layers",          "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    absl::StatusOr<Finished> finished = e2e::RunToEnd(PREFILL_DEMO_BINARY, arguments);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return finished.ok() ? *finished : Finished();
  }

  static std::string Text() {
    std::string text;
    for (int i = 0; text.size() < kDocumentTokens; ++i) text += "Line " + std::to_string(i) + "\n";
    return text;
  }

  const e2e::TemporaryDirectory directory_;
  const std::string document_ = directory_.File("document.txt", Text());
};

TEST_F(PrefillDemoTest, SecondWorkerReusesEveryBlockOfTheFirst) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const Finished demo = RunDemo((*daemon)->grpc_address(), {"--require-hits"});
  EXPECT_EQ(demo.exit_code, 0) << demo.out << demo.err;
  EXPECT_THAT(demo.out, HasSubstr("2 blocks\n"));
  EXPECT_THAT(demo.out, HasSubstr("identical, bit for bit"));
  EXPECT_THAT(demo.out, Not(HasSubstr("without help of the cache")));
}

TEST_F(PrefillDemoTest, RunsAgainWhenItsBlocksAreThereAlready) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ(RunDemo((*daemon)->grpc_address()).exit_code, 0);
  const Finished again = RunDemo((*daemon)->grpc_address(), {"--require-hits"});
  EXPECT_EQ(again.exit_code, 0) << again.out << again.err;
  EXPECT_THAT(again.out, HasSubstr("0 blocks, 2 were there"));
}

TEST_F(PrefillDemoTest, AnotherModelsBlocksAreNotReused) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ(RunDemo((*daemon)->grpc_address()).exit_code, 0);
  const Finished other = RunDemo((*daemon)->grpc_address(), {"--seed", "43", "--require-hits"});
  EXPECT_EQ(other.exit_code, 0) << other.out << other.err;
  EXPECT_THAT(other.out, HasSubstr("2 blocks\n"));
}

TEST_F(PrefillDemoTest, NoticesABlockThatIsNotWhatTheModelComputes) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  ModelConfig model;
  model.layers = 1;
  ClientOptions options;
  options.endpoint = (*daemon)->grpc_address();
  options.fingerprint = BlockFingerprint(model);
  const auto client = Client::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string text = Text();
  const std::vector<Token> tokens(text.begin(), text.end());
  const std::vector<float> wrong(model.block_floats(), 0.25f);
  PutItem item;
  const std::string key = BlockKeys(tokens).front();
  item.key = key;
  item.value = {std::as_bytes(std::span(wrong))};
  ASSERT_EQ((*client)->Put(item).outcome, PutOutcome::kStored);

  const Finished demo = RunDemo((*daemon)->grpc_address());
  EXPECT_EQ(demo.exit_code, 1);
  EXPECT_THAT(demo.out, HasSubstr("DIFFERENT"));
  EXPECT_THAT(demo.err, HasSubstr("logits"));
}

TEST_F(PrefillDemoTest, AnswersWithoutADaemonAndSaysSo) {
  const Finished demo = RunDemo("127.0.0.1:1");  // nobody listens there
  EXPECT_EQ(demo.exit_code, 0) << demo.out << demo.err;
  EXPECT_THAT(demo.out, HasSubstr("worker 2 answered without help of the cache"));
  EXPECT_THAT(demo.out, HasSubstr("identical, bit for bit"));
}

TEST_F(PrefillDemoTest, FailsWithoutADaemonIfHitsAreRequired) {
  const Finished demo = RunDemo("127.0.0.1:1", {"--require-hits"});
  EXPECT_EQ(demo.exit_code, 1);
  EXPECT_THAT(demo.err, HasSubstr("0 of 512 cached tokens were reused"));
}

TEST_F(PrefillDemoTest, RefusesBadArguments) {
  EXPECT_EQ(RunDemo("127.0.0.1:1", {"--layers", "0"}).exit_code, 2);
  EXPECT_EQ(RunDemo("127.0.0.1:1", {"--no-such-option"}).exit_code, 2);
  const Finished demo = RunDemo("127.0.0.1:1", {"--document", "/nonexistent"});
  EXPECT_EQ(demo.exit_code, 1);
  EXPECT_THAT(demo.err, HasSubstr("/nonexistent"));
}

}  // namespace
}  // namespace infercache::demo

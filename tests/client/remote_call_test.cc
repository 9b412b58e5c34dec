// Calls by themselves: who may still hold one when everybody else has gone.

#include "client/src/remote_call.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "absl/synchronization/notification.h"
#include "tests/client/client_testing.h"
#include "tests/client/fake_daemon.h"

namespace infercache {
namespace {

std::unique_ptr<RemoteCalls> CallsTo(const FakeDaemon& daemon) {
  auto channel = MakeChannel({.endpoint = daemon.endpoint()});
  EXPECT_TRUE(channel.ok()) << channel.status();
  return std::make_unique<RemoteCalls>(*std::move(channel));
}

// A call's outcome is out, its callback has not returned: the last channel of the process then goes
// on the thread of the callback.
TEST(RemoteCalls, MayGoBeforeACallbackHasReturned) {
  const auto answer = [](const Asked&) { return Answer{.messages = {"answer"}}; };
  for (int i = 0; i < 3; ++i) {
    absl::Notification delivered, all_gone, returns;
    {
      FakeDaemon daemon(answer);
      std::unique_ptr<RemoteCalls> calls = CallsTo(daemon);
      auto operation = std::make_unique<RemoteCalls::Operation>(*calls);
      calls->Unary("/any.Service/Method", Serialize(v1::GetRequest()),
                   absl::Now() + absl::Minutes(1),
                   /*wait_for_ready=*/false,
                   [&, operation = std::move(operation)](const absl::Status& status,
                                                         grpc::ByteBuffer&) mutable {
                     EXPECT_TRUE(status.ok()) << status;
                     operation.reset();
                     delivered.Notify();
                     all_gone.WaitForNotification();
                     returns.Notify();
                   });
      delivered.WaitForNotification();
      calls.reset();
    }
    all_gone.Notify();
    returns.WaitForNotification();
  }
  // The threads of callbacks still work.
  FakeDaemon daemon(answer);
  auto client = ConnectOrDie({.endpoint = daemon.endpoint()});
  EXPECT_FALSE(client->Get("k").hit());
  EXPECT_EQ(daemon.calls(), 1);
}

}  // namespace
}  // namespace infercache

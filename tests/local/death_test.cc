// Real processes that die, hang up or leave children behind. Each is forked while this process has
// one thread; then the server starts.

#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include "tests/local/child.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

class LocalDeath : public LocalFixture {
 protected:
  LocalDeath() : ns_(Create("default")) { ns_.MustPut("there", "value"); }

  // What every client here does at first: a pin, a lease and a reservation of 100,000 bytes.
  static std::optional<Worker> HoldOneOfEach(const std::string& path, uint64_t now_ms) {
    auto client = RawClient::Connect(path);
    if (!client.ok() || !client->Open().ok() || !client->MapChunks().ok()) return std::nullopt;
    Worker worker(*std::move(client));
    if (worker.Get("there", now_ms, 0, /*keep_pin=*/true) != "value") return std::nullopt;
    if (worker.Lookup({"there"})[0].lease() == 0) return std::nullopt;
    if (worker.Reserve("new", 100'000).reservation() == 0) return std::nullopt;
    return worker;
  }

  void ExpectHeld() {
    const store::NamespaceStats stats = ns_->Stats();
    EXPECT_EQ(stats.client_pins, 1u);
    EXPECT_EQ(stats.pins, 1u);
    EXPECT_GE(stats.reserved_bytes, 100'000u);
  }
  // Pins and leases are gone, whatever became of the reservation.
  void ExpectReadersGone() {
    const store::NamespaceStats stats = ns_->Stats();
    EXPECT_EQ(stats.client_pins, 0u);
    EXPECT_EQ(stats.client_pages, 0u);
    EXPECT_EQ(stats.pins, 0u);
  }
  bool EventuallyNothingReserved() {
    return Eventually([&] {
      const store::NamespaceStats stats = ns_->Stats();
      return stats.reserved_bytes == 0 && stats.quarantined_bytes == 0 &&
             server_->stats().quarantined_reservations == 0;
    });
  }

  store::NamespaceVerbs ns_;
};

TEST_F(LocalDeath, AKilledProcessGivesEverythingBack) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    const auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
    return worker.has_value() && parent.Tell('h') && parent.Await('x');
  });
  Serve();
  ASSERT_TRUE(child.pipe().Tell('g') && child.pipe().Await('h'));
  ExpectHeld();
  child.Kill();
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 0; }));
  EXPECT_EQ(Ended(EndReason::kProcessGone) + Ended(EndReason::kClosed), 1u);
  ExpectReadersGone();
  EXPECT_TRUE(EventuallyNothingReserved());
  EXPECT_TRUE(ns_.Has("there"));
}

TEST_F(LocalDeath, AClosedConnectionOfALiveProcessLeavesItsBytesInQuarantine) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
    if (!worker.has_value()) return false;
    worker->raw().Close();
    return parent.Tell('c') && parent.Await('x');
  });
  Serve();
  ASSERT_TRUE(child.pipe().Tell('g') && child.pipe().Await('c'));
  ExpectEnds(EndReason::kClosed);
  ExpectReadersGone();
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  EXPECT_EQ(server_->QuarantinedIn("default").total(), 100'000u);
  EXPECT_GE(ns_->Stats().quarantined_bytes, 100'000u);
  // Nobody else can have them, however full it gets.
  Worker other = Open();
  EXPECT_EQ(other.Reserve("other", 950'000).code(),
            static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  child.Kill();
  EXPECT_TRUE(EventuallyNothingReserved());
  EXPECT_EQ(other.Reserve("other", 950'000).code(), 0u);
}

TEST_F(LocalDeath, AForkedChildThatHoldsTheSocketDoesNotKeepTheSessionAlive) {
  pid_t grandchild = 0;
  {
    Child child([&](Pipe& parent) {
      if (!parent.Await('g')) return false;
      const auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
      if (!worker.has_value()) return false;
      const pid_t forked = fork();
      if (forked == 0) {
        for (;;) pause();
      }
      for (int shift = 0; shift < 32; shift += 8) parent.Tell(static_cast<char>(forked >> shift));
      return parent.Tell('h') && parent.Await('x');
    });
    Serve();
    ASSERT_TRUE(child.pipe().Tell('g'));
    for (int shift = 0; shift < 32; shift += 8) {
      const std::optional<char> byte = child.pipe().Hear();
      ASSERT_TRUE(byte.has_value());
      grandchild |= static_cast<pid_t>(static_cast<unsigned char>(*byte)) << shift;
    }
    ASSERT_TRUE(child.pipe().Await('h'));
    ExpectHeld();
  }  // killed
  ExpectEnds(EndReason::kProcessGone);
  EXPECT_EQ(kill(grandchild, 0), 0) << "it was to live on";
  ExpectReadersGone();
  EXPECT_TRUE(EventuallyNothingReserved());
  kill(grandchild, SIGKILL);
}

TEST_F(LocalDeath, BreakingTheProtocolFreesNoBytesOfALiveProcess) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
    if (!worker.has_value()) return false;
    return worker->raw().SendFrame("nonsense").ok() && worker->raw().AwaitClose().ok() &&
           parent.Tell('c') && parent.Await('x');
  });
  Serve();
  ASSERT_TRUE(child.pipe().Tell('g') && child.pipe().Await('c'));
  ExpectEnds(EndReason::kProtocol);
  ExpectReadersGone();
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  child.Kill();
  EXPECT_TRUE(EventuallyNothingReserved());
}

TEST_F(LocalDeath, WhatWasCommittedStays) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    auto client = RawClient::Connect(socket_path());
    if (!client.ok() || !client->Open().ok() || !client->MapChunks().ok()) return false;
    Worker worker(*std::move(client));
    worker.Put("mine", "written by the dead");
    return parent.Tell('p') && parent.Await('x');
  });
  Serve();
  ASSERT_TRUE(child.pipe().Tell('g') && child.pipe().Await('p'));
  child.Kill();
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 0; }));
  EXPECT_EQ(ns_.Get("mine"), "written by the dead");
}

TEST_F(LocalDeath, AnExpiredReservationOfADeadProcessIsFreed) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    const auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
    return worker.has_value() && parent.Tell('h') && parent.Await('x');
  });
  Serve({.reservation_timeout = absl::Milliseconds(1)});
  ASSERT_TRUE(child.pipe().Tell('g') && child.pipe().Await('h'));
  EXPECT_TRUE(Eventually([&] { return server_->stats().reservations_expired == 1; }));
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  child.Kill();
  EXPECT_TRUE(EventuallyNothingReserved());
}

TEST_F(LocalDeath, AShutdownFreesWhatIsInQuarantine) {
  Child child([&](Pipe& parent) {
    if (!parent.Await('g')) return false;
    auto worker = HoldOneOfEach(socket_path(), clock_.NowMs());
    if (!worker.has_value()) return false;
    worker->raw().Close();
    return parent.Await('x');
  });
  Serve();
  ASSERT_TRUE(child.pipe().Tell('g'));
  ExpectEnds(EndReason::kClosed);
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  server_->Shutdown(absl::InfinitePast());
  EXPECT_EQ(server_->stats().quarantined_reservations, 0u);
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
}

}  // namespace
}  // namespace infercache::local

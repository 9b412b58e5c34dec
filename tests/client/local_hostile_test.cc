// Daemons that make no sense: no crash, no hang, an error for each call, and another try.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/fingerprint.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/shm/index_layout.h"
#include "tests/build_kind.h"
#include "tests/client/fake_local_daemon.h"
#include "tests/client/local_testing.h"

namespace infercache {
namespace {

using Answer = FakeLocalDaemon::Answer;

constexpr absl::Duration kSoon = absl::Milliseconds(500);
constexpr absl::Duration kNoHang = absl::Seconds(20);

// All kinds of calls, none of which may hang. Returns how many succeeded.
int AskEverything(LocalClient& client) {
  int succeeded = 0;
  const auto count = [&](const absl::Status& status) { succeeded += status.ok() ? 1 : 0; };
  const absl::Time deadline = absl::Now() + kSoon;
  const std::string_view key = "k";
  const auto keys = std::span(&key, 1);
  std::string buffer(10, '.');
  Reached reached;
  count(client.Get("k", kSoon).status);
  count(client.View("k", kSoon).status);
  count(client.GetInto("k", std::as_writable_bytes(std::span(buffer)), kSoon).status);
  count(client.Put("k", "small", false, kSoon).status);
  count(client.Put("k", std::string(100'000, 'l'), false, kSoon).status);
  count(client.transport().MatchNow(keys, deadline, &reached).status);
  count(client.transport().KeysNow(KeysVerb::kDelete, keys, deadline, &reached).status);
  count(client.transport().ListNow("", 0, "", deadline, &reached).status);
  const ReserveItem item = {.key = key, .size_bytes = 100, .info = {}, .parts = {}};
  auto reserved = client.transport().ReserveNow(std::span(&item, 1), deadline, &reached);
  count(reserved[0].status);
  if (reserved[0].reservation) {
    count(client.transport()
              .CommitNow(std::span(&*reserved[0].reservation, 1), deadline, &reached)[0]
              .status);
  }
  count(client.Ping(kSoon));
  return succeeded;
}
constexpr int kAll = 11;

TEST(LocalHostile, ASaneDaemonIsFine) {
  FakeLocalDaemon daemon([](const v1::LocalRequest&, Answer&) {});
  LocalClient client(daemon.path());
  EXPECT_EQ(AskEverything(client), kAll);
}

struct Wrong {
  const char* what;
  std::function<void(const v1::LocalRequest& request, Answer& answer)> script;
};

UniqueFd Unsealed(size_t size) {
  UniqueFd fd(memfd_create("unsealed", MFD_CLOEXEC));
  (void)!ftruncate(fd.get(), static_cast<off_t>(size));
  return fd;
}

// Whatever goes wrong with the handshake: no call succeeds.
TEST(LocalHostile, HandshakesThatMakeNoSenseAreRefused) {
  static const UniqueFd unsealed = Unsealed(size_t{4} << 20);
  static const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto at_hello = [](std::function<void(Answer&, v1::Welcome&)> change) {
    return [change](const v1::LocalRequest& request, Answer& answer) {
      if (request.has_hello()) change(answer, *answer.response.mutable_welcome());
    };
  };
  const auto at_chunks = [](std::function<void(Answer&, v1::Chunks&)> change) {
    return [change](const v1::LocalRequest& request, Answer& answer) {
      if (request.has_map_chunks()) change(answer, *answer.response.mutable_chunks());
    };
  };
  const Wrong wrongs[] = {
      {"garbage", at_hello([](Answer& a, auto&) { a.raw = "HTTP/1.1 400 Bad Request\r\n\r\n"; })},
      {"a frame that is no message", at_hello([](Answer& a, auto&) {
         a.raw = std::string("\x03\0\0\0\0\0\0\0\xff\xff\xff", 11);
       })},
      {"a huge frame",
       at_hello([](Answer& a, auto&) { a.raw = std::string("\xff\xff\xff\x7f\0\0\0\0", 8); })},
      {"descriptors that do not come",
       at_hello([](Answer& a, auto&) { a.raw = std::string("\0\0\0\0\x02\0\0\0", 8); })},
      {"half a frame", at_hello([](Answer& a, auto&) {
         a.raw = std::string("\x10\0\0\0\0\0\0\0abc", 11);
         a.close = true;
       })},
      {"the end", at_hello([](Answer& a, auto&) {
         a.times = 0;
         a.close = true;
       })},
      {"another id", at_hello([](Answer& a, auto&) { a.response.set_id(77); })},
      {"another body", at_hello([](Answer& a, auto&) { a.response.mutable_empty(); })},
      {"no body", at_hello([](Answer& a, auto&) { a.response.clear_body(); })},
      {"an unknown code", at_hello([](Answer& a, auto&) { a.response.set_code(4'000'000); })},
      {"twice", at_hello([](Answer& a, auto&) { a.times = 2; })},
      {"no descriptors", at_hello([](Answer& a, auto&) { a.descriptors.clear(); })},
      {"one descriptor", at_hello([](Answer& a, auto&) { a.descriptors.pop_back(); })},
      {"too many descriptors",
       at_hello([](Answer& a, auto&) { a.descriptors.resize(8, a.descriptors[0]); })},
      {"no segment", at_hello([](Answer& a, auto&) { a.descriptors[0] = null.get(); })},
      {"what may shrink", at_hello([](Answer& a, auto&) { a.descriptors[1] = unsealed.get(); })},
      {"segments exchanged",
       at_hello([](Answer& a, auto&) { std::swap(a.descriptors[0], a.descriptors[1]); })},
      {"a short index", at_hello([](auto&, auto& w) { w.set_index_bytes(1 << 30); })},
      {"part of an index", at_hello([](auto&, auto& w) { w.set_index_bytes(4096); })},
      {"an absurd index", at_hello([](auto&, auto& w) { w.set_index_bytes(~uint64_t{0}); })},
      {"no index", at_hello([](auto&, auto& w) { w.set_index_bytes(0); })},
      {"a short page", at_hello([](auto&, auto& w) { w.set_page_bytes(4096); })},
      {"other slots", at_hello([](auto&, auto& w) { w.set_slot_capacity(32); })},
      {"no slots", at_hello([](auto&, auto& w) { w.set_slot_limit(0); })},
      {"more slots than there are", at_hello([](auto&, auto& w) { w.set_slot_limit(65); })},
      {"too many slots", at_hello([](auto&, auto& w) { w.set_slot_capacity(1 << 30); })},
      {"no chunks", at_hello([](auto&, auto& w) { w.set_chunk_count(0); })},
      {"too many chunks", at_hello([](auto&, auto& w) { w.set_chunk_count(~0u); })},
      {"empty chunks", at_hello([](auto&, auto& w) { w.set_chunk_bytes(0); })},
      {"short chunks", at_hello([](auto&, auto& w) { w.set_chunk_bytes(1 << 30); })},
      {"absurd chunks", at_hello([](auto&, auto& w) { w.set_chunk_bytes(~uint64_t{0}); })},
      {"a later version", at_hello([](auto&, auto& w) { w.set_version(2); })},
      {"another index layout", at_hello([](auto&, auto& w) { w.set_index_layout(99); })},
      {"another page layout", at_hello([](auto&, auto& w) { w.set_page_layout(1); })},
      {"chunks without descriptors", at_chunks([](Answer& a, auto&) { a.descriptors.clear(); })},
      {"other chunks", at_chunks([](auto&, auto& c) { c.set_first(1); })},
      {"another count", at_chunks([](auto&, auto& c) { c.set_count(2); })},
      {"more chunks than there are", at_chunks([](Answer& a, auto& c) {
         a.descriptors.resize(2, a.descriptors[0]);
         c.set_count(2);
       })},
      {"chunks that may shrink",
       at_chunks([](Answer& a, auto&) { a.descriptors[0] = unsealed.get(); })},
  };
  for (const Wrong& wrong : wrongs) {
    SCOPED_TRACE(wrong.what);
    FakeLocalDaemon daemon(wrong.script);
    LocalClient client(daemon.path());
    const absl::Time start = absl::Now();
    EXPECT_EQ(AskEverything(client), 0);
    EXPECT_LT(absl::Now() - start, kNoHang);
    EXPECT_TRUE(Eventually([&] { return daemon.connections() >= 2; })) << "it tries again";
  }
}

// Whatever an open session answers: the call it is about fails, or the connection does.
TEST(LocalHostile, AnswersThatMakeNoSenseFailTheirCall) {
  const Wrong wrongs[] = {
      {"results are lacking",
       [](const auto& q, Answer& a) {
         if (q.has_put_inline()) a.response.mutable_put_results()->clear_results();
       }},
      {"results are too many",
       [](const auto& q, Answer& a) {
         if (q.has_commit()) a.response.mutable_put_results()->add_results();
       }},
      {"an unknown outcome",
       [](const auto& q, Answer& a) {
         if (q.has_put_inline()) {
           a.response.mutable_put_results()->mutable_results(0)->set_outcome(
               static_cast<v1::LocalPutOutcome>(9));
         }
       }},
      {"no places",
       [](const auto& q, Answer& a) {
         if (q.has_reserve()) a.response.mutable_reserved()->clear_items();
       }},
      {"a place in no chunk",
       [](const auto& q, Answer& a) {
         if (q.has_reserve()) a.response.mutable_reserved()->mutable_items(0)->set_chunk(1);
       }},
      {"a place beyond its chunk",
       [](const auto& q, Answer& a) {
         if (q.has_reserve()) {
           a.response.mutable_reserved()->mutable_items(0)->set_offset(
               FakeLocalDaemon::kChunkBytes - 50);
         }
       }},
      {"a place that wraps around",
       [](const auto& q, Answer& a) {
         if (q.has_reserve()) {
           a.response.mutable_reserved()->mutable_items(0)->set_offset(~uint64_t{0} - 50);
         }
       }},
      {"a place without a reservation",
       [](const auto& q, Answer& a) {
         if (q.has_reserve()) a.response.mutable_reserved()->mutable_items(0)->set_reservation(0);
       }},
      {"a short bitmap",
       [](const auto& q, Answer& a) {
         if (q.has_remove()) a.response.mutable_removed()->clear_removed();
       }},
      {"a list out of order",
       [](const auto& q, Answer& a) {
         if (!q.has_list_keys()) return;
         a.response.mutable_key_page()->add_objects()->set_key("b");
         a.response.mutable_key_page()->add_objects()->set_key("a");
       }},
      {"a list of nonsense",
       [](const auto& q, Answer& a) {
         if (!q.has_list_keys()) return;
         auto& object = *a.response.mutable_key_page()->add_objects()->mutable_object();
         object.set_size_bytes(10);
         object.add_parts()->set_size_bytes(11);
       }},
      {"another id",
       [](const auto& q, Answer& a) {
         if (q.has_ping()) a.response.set_id(999);
       }},
      {"twice",
       [](const auto& q, Answer& a) {
         if (q.has_put_inline()) a.times = 2;
       }},
      {"another body",
       [](const auto& q, Answer& a) {
         if (q.has_ping()) a.response.mutable_found();
       }},
      {"never",
       [](const auto& q, Answer& a) {
         if (q.has_ping()) a.times = 0;
       }},
      {"more descriptors than go beside a frame",
       [](const auto& q, Answer& a) {
         if (q.has_ping()) a.raw = std::string("\0\0\0\0\x09\0\0\0", 8);
       }},
      {"half a frame",
       [](const auto& q, Answer& a) {
         if (!q.has_reserve()) return;
         a.raw = std::string("\xff\0\0\0\0\0\0\0abc", 11);
         a.close = true;
       }},
  };
  for (const Wrong& wrong : wrongs) {
    SCOPED_TRACE(wrong.what);
    FakeLocalDaemon daemon(wrong.script);
    LocalClient client(daemon.path());
    const absl::Time start = absl::Now();
    EXPECT_LT(AskEverything(client), kAll);
    EXPECT_LT(absl::Now() - start, kNoHang);
  }
}

TEST(LocalHostile, MoreSlotsThanThePageHasAreNotUsed) {
  FakeLocalDaemon daemon([](const v1::LocalRequest& request, Answer& answer) {
    if (request.has_grow_slots()) answer.response.mutable_slots_granted()->set_slot_limit(~0u);
  });
  LocalClient client(daemon.path());
  EXPECT_EQ(AskEverything(client), kAll);
  const std::vector<std::string_view> keys(100, "k");
  Reached reached;
  for (const GetResult& result : client.transport().GetNow(
           keys, LocalTransport::Copies::kRefused, absl::Now() + absl::Seconds(30), &reached)) {
    EXPECT_FALSE(result.hit());
  }
}

// Whatever is in the index: no crash, and nothing is found that is not there.
TEST(LocalHostile, AnIndexOfNonsenseHoldsNothing) {
  using Change = std::function<void(shm::IndexHeader&, shm::Bucket&, shm::Record&)>;
  const Hash128 hash = HashKey(0, Fingerprint().hash(), "k");
  const auto bits = [](uint64_t size, size_t key_size, bool in_heap) {
    return shm::Record::MakeBits(size, ObjectKind{}, 0, key_size, in_heap);
  };
  const std::pair<const char*, Change> changes[] = {
      {"a record beyond all",
       [&](auto&, auto& b, auto&) {
         for (auto& entry : b.entries) entry = shm::MakeEntry(hash, ~0u);
       }},
      {"a bucket beyond all",
       [](auto&, auto& b, auto&) {
         b.entries[0] = 0;
         b.next = ~0u;
       }},
      {"a chain without end",
       [](auto&, auto& b, auto&) {
         b.entries[0] = 0;
         b.next = 1;
       }},
      {"a key beyond its meta", [&](auto&, auto&, auto& r) { r.bits = bits(1, 2000, false); }},
      {"meta beyond its record",
       [&](auto&, auto&, auto& r) {
         r.meta_size = 65'535;
         r.bits = bits(1, 2000, false);
       }},
      {"meta beyond the heap",
       [&](auto&, auto&, auto& r) {
         r.bits = bits(1, 1, true);
         std::memset(r.meta, 0xff, sizeof r.meta);
       }},
      {"meta that ends beyond the heap",
       [&](auto&, auto&, auto& r) {
         r.bits = bits(1, 1, true);
         r.meta_size = 65;
         std::memset(r.meta, 0, sizeof r.meta);
       }},
      {"a header that changes",
       [](auto& h, auto& b, auto&) {
         h.bucket_count = 1u << 31;
         h.records_offset = h.overflow_offset = h.buckets_offset = h.heap_offset = ~uint64_t{0} / 2;
         b.entries[0] = 0;
       }},
      {"a value beyond its chunk",
       [&](auto&, auto&, auto& r) { r.bits = bits((uint64_t{1} << 44) - 1, 1, false); }},
      {"parts that are none",
       [&](auto&, auto&, auto& r) {
         r.meta_size = 42;
         std::memset(r.meta + 1, 0xff, sizeof r.meta - 1);
       }},
  };
  for (const auto& [what, change] : changes) {
    SCOPED_TRACE(what);
    FakeLocalDaemon daemon([](const v1::LocalRequest&, Answer&) {});
    LocalClient client(daemon.path());
    std::byte* memory = daemon.index().bytes().data();
    auto& bucket = *reinterpret_cast<shm::Bucket*>(memory + shm::kIndexPageBytes);
    auto& record = reinterpret_cast<shm::Record*>(&bucket + 1)[1];
    record.hash_lo = hash.lo;
    record.hash_hi = hash.hi;
    record.bits = bits(5, 1, false);
    record.meta_size = 1;
    record.meta[0] = 'k';
    bucket.entries[0] = shm::MakeEntry(hash, 1);
    ASSERT_TRUE(client.Reaches());
    ASSERT_TRUE(client.View("k").hit()) << "as long as it makes sense";
    change(*reinterpret_cast<shm::IndexHeader*>(memory), bucket, record);
    std::string buffer(10, '.');
    const std::string_view key = "k";
    EXPECT_FALSE(client.View("k", kSoon).hit());
    EXPECT_FALSE(client.Get("k", kSoon).hit());
    (void)client.GetInto("k", std::as_writable_bytes(std::span(buffer)), kSoon);
    (void)client.Match(std::span(&key, 1));
    EXPECT_FALSE(client.View("other", kSoon).hit());
  }
}

// A daemon that reads nothing while `busy`, and the reservations it was told to abort since.
class BusyDaemon {
 public:
  BusyDaemon()
      : daemon_([this](const v1::LocalRequest& request, Answer& answer) {
          if (request.has_hello()) {
            answer.response.mutable_welcome()->set_put_access(v1::Welcome::PUT_ACCESS_SEND);
          }
          while (request.has_ping() && busy) absl::SleepFor(absl::Milliseconds(1));
          aborted += request.abort().reservations_size();
        }) {}
  ~BusyDaemon() { busy = false; }

  const std::string& path() const { return daemon_.path(); }

  std::atomic<bool> busy{false};
  std::atomic<int> aborted{0};

 private:
  FakeLocalDaemon daemon_;
};

// So many that the next request is refused right here.
void FillUp(LocalClient& client) {
  for (size_t i = 0; i < kMaxPendingRequests; ++i) {
    client.transport().Ping(/*wait_for_daemon=*/false, absl::Now() + absl::Minutes(1),
                            [](const absl::Status&, Reached) {});
  }
}

// It used to count as committed, and its room stayed taken.
TEST(LocalBusy, ACommitThatCannotBeSentIsAborted) {
  BusyDaemon daemon;
  LocalClient client(daemon.path());
  ReserveResult reserved = client.Reserve("k", 10);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  daemon.busy = true;
  FillUp(client);
  const PutResult put = client.Commit(*std::move(reserved.reservation));
  EXPECT_TRUE(absl::IsResourceExhausted(put.status)) << put.status;
  daemon.busy = false;
  EXPECT_TRUE(Eventually([&] { return daemon.aborted == 1; }));
}

// What gives room back used to be dropped with the rest.
TEST(LocalBusy, WritesStopWhereTooMuchIsUnsentAndAbortsGoOn) {
  BusyDaemon daemon;
  LocalClient client(daemon.path());
  std::optional<ReserveResult> dropped = client.Reserve("dropped", 10);
  ReserveResult written = client.Reserve("written", 10);
  ASSERT_TRUE(dropped->reservation && written.reservation);
  daemon.busy = true;
  client.transport().Ping(/*wait_for_daemon=*/false, absl::Now() + absl::Minutes(1),
                          [](const absl::Status&, Reached) {});
  const std::string value(kMaxInlineBytes, 'v');
  const std::vector<PutItem> items(50, {.key = "k", .value = {Bytes(value)}});
  std::atomic<bool> full{false};
  while (!full) {
    client.transport().Put(items, absl::Now() + absl::Minutes(1),
                           [&full](const std::vector<PutResult>& results, Reached) {
                             if (absl::IsResourceExhausted(results[0].status)) full = true;
                           });
  }
  const PutResult put = client.Commit(*std::move(written.reservation));
  EXPECT_TRUE(absl::IsResourceExhausted(put.status)) << put.status;
  dropped.reset();
  daemon.busy = false;
  EXPECT_TRUE(Eventually([&] { return daemon.aborted == 2; }));
  client.Destroy();
}

TEST(LocalHostile, RandomBytesAreNoAnswer) {
  std::mt19937 random(1);
  for (int round = 0; round < Scaled(50); ++round) {
    FakeLocalDaemon daemon([&random, round](const v1::LocalRequest& request, Answer& answer) {
      if (request.has_hello() || request.has_map_chunks()) return;
      std::string bytes;
      for (int i = 0; i < 64; ++i) bytes.push_back(static_cast<char>(random()));
      // Half of them with a header that lets them pass as a frame.
      if (round % 2 == 0) bytes.replace(0, 8, std::string("\x38\0\0\0\0\0\0\0", 8));
      answer.raw = bytes;
    });
    LocalClient client(daemon.path());
    ASSERT_TRUE(Eventually([&] { return daemon.connections() > 0; }));
    EXPECT_FALSE(client.Put("k", "v", false, absl::Milliseconds(50)).status.ok());
  }
}

}  // namespace
}  // namespace infercache

// A session page whose client writes whatever it likes, between puts, reads and upkeep of the
// daemon: nothing is read out of bounds, other clients' pins hold, and once the page is detached
// everything comes back.

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/fingerprint.h"
#include "common/shm/reader.h"
#include "server/store/client_page.h"
#include "server/store/store.h"
#include "tests/fuzz/require.h"

namespace infercache::store {
namespace {

constexpr uint64_t kQuota = 64 * 1024;

bool Put(Namespace& ns, const std::string& key, uint64_t size) {
  auto reserved =
      ns.Reserve({.id = {key, Fingerprint().hash()}, .size_bytes = size, .overwrite = true});
  if (!reserved.ok()) return false;
  WriteLease lease = **std::move(reserved);
  for (std::byte& byte : lease.bytes()) byte = static_cast<std::byte>(key.size());
  return ns.Commit(std::move(lease)).ok();
}

// A word that looks like a pin of something that may be there, or any word.
uint64_t Word(FuzzedDataProvider& data) {
  return data.ConsumeBool() ? shm::MakePin(data.ConsumeIntegralInRange<uint32_t>(0, 64),
                                           data.ConsumeIntegralInRange<uint64_t>(0, 16))
                            : data.ConsumeIntegral<uint64_t>();
}

void Scribble(FuzzedDataProvider& data, ClientPage& page) {
  shm::SessionPage view(page.memory(), page.slot_capacity());
  const auto lane = data.ConsumeIntegralInRange<uint32_t>(0, shm::kLanes - 1);
  switch (data.ConsumeIntegralInRange<int>(0, 5)) {
    case 0:
      view.slot(data.ConsumeIntegralInRange<uint32_t>(0, 128)).store(Word(data));
      break;
    case 1:
      view.touch(lane, data.ConsumeIntegral<uint64_t>()).store(Word(data));
      break;
    case 2:
      view.lane(lane).touched.store(data.ConsumeIntegral<uint64_t>());
      break;
    case 3:
      view.lane(lane).touched.fetch_add(data.ConsumeIntegralInRange<uint64_t>(0, 100));
      break;
    case 4:
      view.lane(lane).hits.store(data.ConsumeIntegral<uint64_t>());
      view.lane(lane).hit_bytes.store(data.ConsumeIntegral<uint64_t>());
      break;
    default: {
      // Anywhere in the header and the lanes, the magic included.
      auto* words = reinterpret_cast<std::atomic<uint64_t>*>(page.memory().data());
      words[data.ConsumeIntegralInRange<size_t>(0, 511)].store(data.ConsumeIntegral<uint64_t>());
    }
  }
}

void Run(FuzzedDataProvider& data) {
  ManualClock clock;
  Store store({.capacity_bytes = kQuota, .shards = 4, .background = false}, clock);
  auto made = store.CreateNamespace({.name = "fuzz", .quota_bytes = kQuota, .max_objects = 64});
  REQUIRE(made.ok());
  const std::shared_ptr<Namespace> ns = *std::move(made);
  // An honest client beside the other one, with one object pinned throughout.
  REQUIRE(Put(*ns, "held", 100));
  const auto honest = *ClientPage::Create(64);
  ns->AttachPage(honest);
  shm::SessionPage honest_view(honest->memory(), honest->slot_capacity());
  honest_view.RaiseSlotsInUse(1);
  const shm::IndexView index(ns->index_memory());
  const Hash128 hash = HashKey(index.header().hash_seed, Fingerprint().hash(), "held");
  const auto held = shm::FindAndPin(index, hash, "held", clock.NowMs(), honest_view.slot(0));
  REQUIRE(held.outcome == shm::FindOutcome::kPinned);
  const auto bytes = ns->arena_chunks()[held.record->segment()].subspan(held.record->offset(), 100);

  const auto page = *ClientPage::Create(data.ConsumeIntegralInRange<uint32_t>(1, 128));
  ns->AttachPage(page);
  uint64_t drained = 0;
  while (data.remaining_bytes() > 0) {
    switch (data.ConsumeIntegralInRange<int>(0, 6)) {
      case 0:
        Put(*ns, std::string(data.ConsumeIntegralInRange<size_t>(1, 40), 'k'),
            data.ConsumeIntegralInRange<uint64_t>(0, 8192));
        break;
      case 1:
        drained += ns->DrainTouches(*page, data.ConsumeIntegralInRange<size_t>(0, 10'000));
        break;
      case 2:
        ns->Maintain();
        break;
      case 3: {
        const Namespace::PinUse use = ns->PinsOf(*page);
        REQUIRE(use.pins <= page->slot_limit());
        const NamespaceStats stats = ns->Stats();
        REQUIRE(stats.used_bytes <= stats.quota_bytes);
        break;
      }
      case 4:
        if (drained > 1'000'000) return;  // enough for one run
        ns->Erase({"held", Fingerprint().hash()});
        break;
      default:
        Scribble(data, *page);
    }
    for (const std::byte byte : bytes) REQUIRE(byte == std::byte{4});
    REQUIRE(index.key(*held.record) == "held");
  }
  ns->DetachPage(page);
  shm::Unpin(honest_view.slot(0));
  ns->DetachPage(honest);
  ns->Flush("");
  ns->Maintain();
  REQUIRE(ns->Stats().used_bytes == 0);
}

}  // namespace
}  // namespace infercache::store

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  infercache::store::Run(data);
  return 0;
}

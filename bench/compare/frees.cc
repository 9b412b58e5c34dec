// How fast a full namespace gives memory back while clients hold pins: sessions with all their
// slots set, every put evicts. Evictions a second.
//
//   infercache_frees [--seconds N] [--sessions N] [--slots N] [-o text|json]
//
// The target holds for 64 sessions of 1,024 pinned slots, the default; exits with 1 if it is
// missed.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/compare/row.h"
#include "bench/store_for_bench.h"
#include "common/shm/reader.h"
#include "server/store/client_page.h"

namespace infercache::store {
namespace {

constexpr uint64_t kObjectBytes = 4096;
constexpr double kTarget = 200'000;

struct Options {
  double seconds = 3;
  uint32_t sessions = 64;
  uint32_t slots = 1024;
  bench::Output output = bench::Output::kText;

  bool full_size() const { return sessions == 64 && slots == 1024 && seconds >= 2; }
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "-o") {
      options.output =
          std::strcmp(argv[i + 1], "json") == 0 ? bench::Output::kJson : bench::Output::kText;
    } else if (name == "--seconds") {
      options.seconds = std::atof(argv[i + 1]);
    } else if (name == "--sessions") {
      options.sessions = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    } else if (name == "--slots") {
      options.slots = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    }
  }
  if (argc % 2 == 0 || options.sessions == 0 || options.slots == 0 ||
      options.slots > kMaxPinSlots || !(options.seconds > 0)) {
    std::fprintf(stderr, "usage: %s [--seconds N] [--sessions N] [--slots N] [-o text|json]\n",
                 argv[0]);
    std::exit(2);
  }
  return options;
}

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "infercache_frees: %s\n", what);
  std::exit(2);
}

// As many objects as the sessions pin, each pinned by one slot.
std::vector<std::shared_ptr<ClientPage>> PinEverything(BenchStore& store, const Options& options) {
  const shm::IndexView index(store.ns->index_memory());
  std::vector<std::shared_ptr<ClientPage>> pages;
  uint64_t object = 0;
  for (uint32_t i = 0; i < options.sessions; ++i) {
    auto page = ClientPage::Create(options.slots);
    if (!page.ok()) Die("no memory for the session pages");
    shm::SessionPage client((*page)->memory(), (*page)->slot_capacity());
    client.RaiseSlotsInUse(options.slots);
    store.ns->AttachPage(*page);
    for (uint32_t slot = 0; slot < options.slots; ++slot, ++object) {
      const std::string key = absl::StrCat("pinned:", object);
      if (!store.Put(key, kObjectBytes)) Die("a put was refused");
      const Hash128 hash = HashKey(index.header().hash_seed, store.fingerprint, key);
      if (shm::FindAndPin(index, hash, key, store.clock.NowMs(), client.slot(slot)).outcome !=
          shm::FindOutcome::kPinned) {
        Die("an object that was put is not there");
      }
    }
    pages.push_back(*std::move(page));
  }
  return pages;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  const uint64_t pinned = uint64_t{options.sessions} * options.slots;
  BenchStore store(2 * pinned * kObjectBytes, 4 * pinned, /*background=*/true);
  const auto pages = PinEverything(store, options);
  uint64_t next = 0;
  while (store.ns->Stats().evicted == 0) store.Put(absl::StrCat("filler:", next++), kObjectBytes);

  const uint64_t evicted_before = store.ns->Stats().evicted;
  const auto start = std::chrono::steady_clock::now();
  const auto end = start + std::chrono::duration<double>(options.seconds);
  uint64_t refused = 0;
  while (std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 64; ++i) {
      refused += store.Put(absl::StrCat("filler:", next++), kObjectBytes) ? 0 : 1;
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  bench::Row row;
  row.name = "frees";
  row.ours = static_cast<double>(store.ns->Stats().evicted - evicted_before) / seconds;
  row.unit = "1/s";
  row.target = absl::StrCat(">= ", kTarget);
  if (options.full_size()) row.ok = row.ours >= kTarget;
  row.note = absl::StrCat(options.sessions, " sessions, ", options.slots, " pinned slots each, ",
                          refused, " puts refused");
  for (const auto& page : pages) store.ns->DetachPage(page);
  bench::RowPrinter rows(options.output);
  rows.Print(row);
  return rows.missed() ? 1 : 0;
}

}  // namespace
}  // namespace infercache::store

int main(int argc, char** argv) { return infercache::store::Main(argc, argv); }

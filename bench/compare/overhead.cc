// Bytes that each object costs beside its value, here and in memcached and Redis, for the same
// objects: 100,000 of them, keys of 32 bytes, values of 1 KiB. The peers are started by
// compare.sh. Exits with 1 if ours is above one of them.
//
//   infercache_overhead --memcached SOCKET --redis SOCKET [--objects N] [-o json]
//
// What is counted: index, policy and key; everything that is not a byte of a value. What is not:
// what an allocator loses by rounding a request up, since that depends on the sizes chosen and
// every store rounds. How rounding is taken apart:
//   infercache  NamespaceStats.metadata_bytes has none in it: hash table (whole, however empty),
//               records, record states and allocator nodes. The arena's rounding of values to 64
//               bytes is not part of it (and is 0 for values of 1 KiB).
//   memcached   `stats` "bytes" sums what items ask for (header, CAS, key, value with its CR LF),
//               not the slab chunks they get; plus "hash_bytes", the hash table. LRU links and the
//               reference count are in the item header.
//   Redis       used_memory counts allocator size classes, so the growth of used_memory includes
//               rounding. It is taken off by what is known of the three allocations per key: key
//               string (3-byte header, NUL), value string (3-byte header, NUL; own allocation above
//               44 bytes) and dict entry (24 bytes) go up to jemalloc's classes; the 16-byte object
//               and the hash table fit theirs. The LRU clock is in the object. Both numbers are
//               printed, with and without rounding.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/die.h"
#include "bench/compare/memcached_client.h"
#include "bench/compare/redis_client.h"
#include "bench/compare/row.h"
#include "bench/store_for_bench.h"

namespace infercache::store {
namespace {

using bench::Die;

constexpr uint64_t kValueBytes = 1024;
constexpr uint64_t kKeyBytes = 32;
// Fewer than this show the tables' first sizes, not what an object costs.
constexpr uint64_t kObjectsForVerdict = 100'000;

struct Options {
  std::string memcached, redis;
  uint64_t objects = kObjectsForVerdict;
  bench::Output output = bench::Output::kText;
};

struct Overhead {
  double per_object = 0;  // rounding apart
  std::string note;
};

double MeasureInfercache(uint64_t objects) {
  BenchStore bench(QuotaForLiveObjects(objects, kValueBytes), objects);
  for (uint64_t i = 0; i < objects; ++i) {
    if (!bench.Put(BlockKey(i), kValueBytes)) Die("put refused");
  }
  const NamespaceStats stats = bench.ns->Stats();
  if (stats.objects != objects) Die(absl::StrCat("objects were evicted: ", stats.objects, " left"));
  return static_cast<double>(stats.metadata_bytes) / static_cast<double>(objects);
}

Overhead MeasureMemcached(const std::string& socket_path, uint64_t objects) {
  bench::MemcachedClient server(socket_path);
  server.FlushAll();
  const std::string value(kValueBytes, 'v');
  for (uint64_t i = 0; i < objects; ++i) server.Set(BlockKey(i), value);
  // The table grows in the background; its size is settled once it says so.
  while (server.Statistic("hash_is_expanding") != 0) {
  }
  if (server.Statistic("curr_items") != objects) {
    Die("memcached evicted items or had others: give it more memory, and to this program alone");
  }
  const uint64_t items = server.Statistic("bytes") - objects * kValueBytes;
  const uint64_t table = server.Statistic("hash_bytes");
  return {static_cast<double>(items + table) / static_cast<double>(objects), ""};
}

// jemalloc with a quantum of 16: multiples of 16 to 128, then four classes a doubling.
uint64_t SizeClass(uint64_t n) {
  if (n <= 8) return 8;
  if (n <= 128) return (n + 15) / 16 * 16;
  uint64_t step = 32;
  while (n > step * 8) step *= 2;
  return (n + step - 1) / step * step;
}

Overhead MeasureRedis(const std::string& socket_path, uint64_t objects) {
  bench::RedisClient server(socket_path);
  server.FlushAll();
  (void)server.UsedMemory();  // the connection's buffers reach their size
  const uint64_t before = server.UsedMemory();
  const std::string value(kValueBytes, 'v');
  for (uint64_t i = 0; i < objects; ++i) server.Set(BlockKey(i), value);
  const uint64_t used = server.UsedMemory() - before;
  const auto rounding = [](uint64_t n) { return SizeClass(n) - n; };
  const uint64_t lost = rounding(kKeyBytes + 4) + rounding(kValueBytes + 4) + rounding(24);
  const double with_rounding =
      static_cast<double>(used) / static_cast<double>(objects) - kValueBytes;
  return {with_rounding - static_cast<double>(lost),
          absl::StrFormat("; %.1f with its rounding", with_rounding)};
}

bench::Row Compare(const std::string& peer, double ours, const Overhead& theirs, uint64_t objects) {
  const bench::Target target = bench::Target::AtMost(1);
  bench::Row row;
  row.name = absl::StrCat("overhead/", peer);
  row.ours = ours;
  row.peer = theirs.per_object;
  row.unit = "bytes";
  row.ratio = ours / theirs.per_object;
  row.target = target.ToString();
  if (objects >= kObjectsForVerdict) row.ok = target.Holds(*row.ratio);
  row.note = absl::StrCat("an object, beside its value; ", objects, " objects", theirs.note);
  return row;
}

Options Parse(int argc, char** argv) {
  Options options;
  bool bad = false;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    bad |= value.empty();
    if (flag == "--memcached") {
      options.memcached = value;
    } else if (flag == "--redis") {
      options.redis = value;
    } else if (flag == "--objects") {
      options.objects = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "-o" && (value == "json" || value == "text")) {
      options.output = value == "json" ? bench::Output::kJson : bench::Output::kText;
    } else {
      bad = true;
    }
  }
  if (bad || options.memcached.empty() || options.redis.empty() || options.objects == 0) {
    Die(absl::StrCat("usage: ", argv[0],
                     " --memcached SOCKET --redis SOCKET [--objects N] [-o text|json]"));
  }
  return options;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  bench::RowPrinter rows(options.output);
  const double ours = MeasureInfercache(options.objects);
  rows.Print(Compare("memcached", ours, MeasureMemcached(options.memcached, options.objects),
                     options.objects));
  rows.Print(Compare("redis", ours, MeasureRedis(options.redis, options.objects), options.objects));
  return rows.missed() ? 1 : 0;
}

}  // namespace
}  // namespace infercache::store

int main(int argc, char** argv) { return infercache::store::Main(argc, argv); }

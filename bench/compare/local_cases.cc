// The same-host lane: hits, matches and puts through shared memory, beside memcached and Redis on
// their Unix sockets and beside a bare memcpy through the same mapping.

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "bench/compare/local_client.h"
#include "bench/compare/memcached_client.h"
#include "bench/compare/redis_client.h"

namespace infercache::bench {
namespace {

constexpr size_t kKibibyte = 1024;
constexpr size_t kMebibyte = size_t{1} << 20;
constexpr size_t kLocalChain = 4096;
// Calls between two looks at the clock, which takes as long as a hit.
constexpr size_t kHitsPerLook = 1000;
// Values of 1 MiB that are used in turn; together they stay in no CPU's cache.
constexpr size_t kLargeKeys = 64;

std::vector<std::string> Keys(const std::string& prefix, size_t count) {
  std::vector<std::string> keys;
  for (size_t i = 0; i < count; ++i) keys.push_back(absl::StrCat(prefix, BlockKey(i)));
  return keys;
}

std::vector<std::string_view> Views(const std::vector<std::string>& keys) {
  return {keys.begin(), keys.end()};
}

// The mean of `count` calls of `work`, as one call's time.
template <typename Work>
std::function<Nanoseconds()> TimedMany(size_t count, Work work) {
  return [count, work]() mutable {
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < count; ++i) work();
    return Nanoseconds(std::chrono::steady_clock::now() - start) / static_cast<int64_t>(count);
  };
}

Side MemcachedGet(const Servers& servers, std::vector<std::string> keys, size_t size) {
  const auto client = std::make_shared<MemcachedClient>(servers.memcached);
  for (const std::string& key : keys) client->Set(key, std::string(size, 'v'));
  return {"memcached", Timed([client, keys = std::move(keys), size, next = size_t{0}]() mutable {
            if (client->Get(keys[next++ % keys.size()]).size() != size)
              Die("memcached: wrong size");
          })};
}

// A bound on our own time, besides the one on the ratio.
Row WithBound(Row row, const std::string& name, double most_us, const Plan& plan) {
  row.name = name;
  row.peer.reset();
  row.ratio.reset();
  row.spread.reset();
  row.target = absl::StrCat("<= ", most_us, " us");
  row.ok.reset();
  if (!plan.quick) row.ok = row.ours <= most_us;
  row.note = "median of the rounds";
  return row;
}

}  // namespace

void LocalHitKibibyte(const Context& context) {
  const std::vector<std::string> keys = Keys("l1k:", 1);
  const auto client = std::make_shared<LocalClient>(context.servers.ours_unix);
  client->Put(keys[0], std::string(kKibibyte, 'v'));
  const auto buffer = std::make_shared<std::array<std::byte, kKibibyte>>();
  const std::vector<Side> sides = {
      {"ours",
       TimedMany(kHitsPerLook, [client, key = keys[0], buffer] { client->CopyOut(key, *buffer); })},
      MemcachedGet(context.servers, keys, kKibibyte)};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  const Row row = measured.Compare("local_hit_1k", {1}, Target::AtLeast(20));
  context.rows.Print(row);
  context.rows.Print(WithBound(row, "local_hit_1k/bound", 0.5, context.plan));
}

void LocalViewMebibyte(const Context& context) {
  const std::vector<std::string> keys = Keys("l1m:", kLargeKeys);
  const auto client = std::make_shared<LocalClient>(context.servers.ours_unix);
  for (const std::string& key : keys) client->Put(key, std::string(kMebibyte, 'v'));
  const std::vector<Side> sides = {{"ours", TimedMany(kHitsPerLook,
                                                      [client, keys, next = size_t{0}]() mutable {
                                                        client->View(keys[next++ % keys.size()],
                                                                     kMebibyte);
                                                      })},
                                   MemcachedGet(context.servers, keys, kMebibyte)};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("local_view_1m", {1}, Target::AtLeast(100)));
}

void LocalCopyMebibyte(const Context& context) {
  // All of them are held at once, which the quick run's namespace is too small for.
  const std::vector<std::string> keys = Keys("l1m:", context.plan.quick ? 16 : kLargeKeys);
  const auto client = std::make_shared<LocalClient>(context.servers.ours_unix);
  for (const std::string& key : keys) client->Put(key, std::string(kMebibyte, 'v'));
  const auto buffer = std::make_shared<std::vector<std::byte>>(kMebibyte);
  // The same bytes, through the same mapping.
  const auto held = std::make_shared<std::vector<Object>>();
  for (const std::string& key : keys) held->push_back(client->Hold(key));
  const std::vector<Side> sides = {
      {"ours", Timed([client, keys, buffer, next = size_t{0}]() mutable {
         client->CopyOut(keys[next++ % keys.size()], *buffer);
       })},
      {"memcpy", Timed([held, buffer, next = size_t{0}]() mutable {
         const auto bytes = (*held)[next++ % held->size()].bytes();
         std::memcpy(buffer->data(), bytes.data(), bytes.size());
       })},
      MemcachedGet(context.servers, keys, kMebibyte)};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("local_copy_1m/memcpy", {1}, Target::AtLeast(0.9)));
  context.rows.Print(measured.Compare("local_copy_1m/memcached", {2}, Target::AtLeast(1)));
}

void LocalMatchChain(const Context& context) {
  const std::vector<std::string> keys = Keys("lm:", kLocalChain);
  const auto client = std::make_shared<LocalClient>(context.servers.ours_unix);
  const auto memcached = std::make_shared<MemcachedClient>(context.servers.memcached);
  const auto redis = std::make_shared<RedisClient>(context.servers.redis);
  const std::string value(kKibibyte, 'v');
  client->PutAll(keys, value);
  for (const std::string& key : keys) {
    memcached->Set(key, value);
    redis->Set(key, value);
  }
  const std::vector<Side> sides = {
      {"ours", Timed([client, keys, views = Views(keys)] { client->MatchAll(views); })},
      {"memcached mg", Timed([memcached, request = MemcachedClient::PresenceRequest(keys)] {
         if (memcached->CountPresent(request, kLocalChain) != kLocalChain)
           Die("memcached: keys are missing");
       })},
      {"redis EXISTS", Timed([redis, request = RedisClient::PresenceRequest(keys)] {
         if (redis->CountPresent(request, kLocalChain) != kLocalChain)
           Die("redis: keys are missing");
       })}};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  // Of a key.
  const Row row = measured.Compare("local_match_4096", {1, 2}, Target::AtLeast(5), kLocalChain);
  context.rows.Print(row);
  context.rows.Print(WithBound(row, "local_match_4096/bound", 0.2, context.plan));
}

void LocalPutMebibyte(const Context& context) {
  const std::vector<std::string> keys = Keys("lp:", kLargeKeys);
  const auto client = LargeValueClient(context, "bench-local-put");
  const auto memcached = std::make_shared<MemcachedClient>(context.servers.memcached);
  const auto value = std::make_shared<std::string>(kMebibyte, 'v');
  const std::vector<Side> sides = {
      {"ours", Timed([client, keys, value, next = size_t{0}]() mutable {
         client->Put(keys[next++ % keys.size()], *value);  // one copy, into place
       })},
      {"memcached", Timed([memcached, keys, value, next = size_t{0}]() mutable {
         memcached->Set(keys[next++ % keys.size()], *value);
       })}};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("local_put_1m", {1}, Target::AtLeast(1.5)));
}

namespace {

constexpr size_t kMixValueBytes = 4096;
constexpr size_t kMixKeys = 10'000;
constexpr size_t kMixThreads = 2;
// One put and the gets that go with it, 95 to 5.
constexpr size_t kGetsPerPut = 19;

// Runs f(thread) on kMixThreads threads and returns the time until all are done.
template <typename F>
Nanoseconds OnThreads(F f) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kMixThreads; ++t) threads.emplace_back([&f, t] { f(t); });
  for (std::thread& thread : threads) thread.join();
  return std::chrono::steady_clock::now() - start;
}

// Each thread: `batches` times `depth` puts and the gets between them.
template <typename Client, typename PutMany>
std::function<Nanoseconds()> Mix(std::vector<std::shared_ptr<Client>> clients, size_t depth,
                                 PutMany put_many) {
  constexpr size_t kPutsPerRun = 160;
  const auto keys = std::make_shared<std::vector<std::string>>(Keys("mix:", kMixKeys));
  return [clients = std::move(clients), keys, depth, put_many, seed = uint64_t{1}]() mutable {
    ++seed;
    const Nanoseconds took = OnThreads([&](size_t thread) {
      uint64_t state = seed * kMixThreads + thread;
      const auto next_key = [&]() -> const std::string& {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (*keys)[(state >> 33) % kMixKeys];
      };
      for (size_t puts = 0; puts < kPutsPerRun; puts += depth) {
        std::vector<std::string_view> put_keys;
        for (size_t i = 0; i < depth; ++i) put_keys.push_back(next_key());
        put_many(*clients[thread], put_keys);
        for (size_t i = 0; i < depth * kGetsPerPut; ++i) clients[thread]->GetMixed(next_key());
      }
    });
    return took / static_cast<int64_t>(kPutsPerRun * (kGetsPerPut + 1) * kMixThreads);
  };
}

// What a mix needs of memcached: a get that is copied out, and several sets in one write.
class MixedMemcached {
 public:
  explicit MixedMemcached(const std::string& socket) : client_(socket) {}
  void GetMixed(const std::string& key) {
    const std::string_view value = client_.Get(key);
    std::memcpy(buffer_.data(), value.data(), value.size());
  }
  void SetMany(const std::vector<std::string_view>& keys, std::string_view value) {
    client_.SetMany(keys, value);
  }

 private:
  MemcachedClient client_;
  std::array<char, kMixValueBytes> buffer_;
};

class MixedLocal {
 public:
  explicit MixedLocal(const std::string& endpoint) : client_(endpoint) {}
  void GetMixed(const std::string& key) { client_.CopyOut(key, buffer_); }
  LocalClient& client() { return client_; }

 private:
  LocalClient client_;
  std::array<std::byte, kMixValueBytes> buffer_;
};

void PrintMix(const Context& context, const std::string& name, size_t depth, double target) {
  const auto value = std::make_shared<std::string>(kMixValueBytes, 'v');
  std::vector<std::shared_ptr<MixedLocal>> ours;
  std::vector<std::shared_ptr<MixedMemcached>> memcached;
  for (size_t t = 0; t < kMixThreads; ++t) {
    ours.push_back(std::make_shared<MixedLocal>(context.servers.ours_unix));
    memcached.push_back(std::make_shared<MixedMemcached>(context.servers.memcached));
  }
  const std::vector<std::string> keys = Keys("mix:", kMixKeys);
  ours[0]->client().PutAll(keys, *value);
  for (size_t i = 0; i < keys.size(); i += 16) {
    const size_t end = std::min(i + 16, keys.size());
    memcached[0]->SetMany(
        {keys.begin() + static_cast<ptrdiff_t>(i), keys.begin() + static_cast<ptrdiff_t>(end)},
        *value);
  }
  const std::vector<Side> sides = {
      {"ours", Mix(ours, depth,
                   [value](MixedLocal& client, const std::vector<std::string_view>& put_keys) {
                     client.client().PutMany(put_keys, *value);
                   })},
      {"memcached",
       Mix(memcached, depth,
           [value](MixedMemcached& client, const std::vector<std::string_view>& put_keys) {
             client.SetMany(put_keys, *value);
           })}};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  Row row = measured.Compare(name, {1}, Target::AtLeast(target));
  row.note += absl::StrCat("; an operation of ", kMixThreads, " clients, 95/5 get/put of 4 KiB");
  context.rows.Print(row);
}

}  // namespace

void LocalMixSynchronous(const Context& context) { PrintMix(context, "local_mix_sync", 1, 2); }
void LocalMixPipelined(const Context& context) { PrintMix(context, "local_mix_16_puts", 16, 5); }

}  // namespace infercache::bench

// What a batch of puts asks of the daemon, counted by the daemon: objects that are written in place
// are reserved together and committed together.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/local_client.h"

namespace infercache::bench {

void LocalPutRoundTrips(const Context& context) {
  constexpr size_t kBatches = 20;
  constexpr size_t kPutsPerBatch = 64;
  constexpr size_t kPutBytes = size_t{64} << 10;  // what is larger than 16 KiB is written in place
  constexpr double kMost = 2;

  std::vector<std::string> keys;
  for (size_t i = 0; i < kPutsPerBatch; ++i) keys.push_back(absl::StrCat("trips:", BlockKey(i)));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const std::string value(kPutBytes, 'v');
  ProtobufClient admin(context.servers.ours_unix);
  LocalClient client(context.servers.ours_unix);
  client.PutMany(views, value);  // opens the session

  const v1::LocalLaneStats before = admin.LocalLane();
  for (size_t i = 0; i < kBatches; ++i) client.PutMany(views, value);
  const v1::LocalLaneStats after = admin.LocalLane();
  const auto per_batch = [](uint64_t count) { return static_cast<double>(count) / kBatches; };

  Row row;
  row.name = "local_put_round_trips";
  row.ours = per_batch(after.round_trips() - before.round_trips());
  row.unit = "/batch";
  row.target = absl::StrCat("<= ", kMost);
  row.ok = row.ours <= kMost;  // a count: as true in a quick run
  row.note =
      absl::StrCat(kPutsPerBatch, " puts of 64 KiB a batch, over ", kBatches, " batches; ",
                   per_batch(after.requests() - before.requests()), " requests read a batch");
  context.rows.Print(row);
}

}  // namespace infercache::bench

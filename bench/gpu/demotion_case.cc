// Objects that move down to host memory: how fast, beside a bare copy into registered memory, and
// what the daemon's context takes of the GPU.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/die.h"
#include "bench/gpu/gpu_cases.h"
#include "client/src/admin_client.h"

namespace infercache::bench {
namespace {

constexpr size_t kValuesPerLook = 16;
constexpr double kLeastShareOfACopy = 0.9;

// A daemon whose tier is full, and a worker that goes on putting: there is always something to
// move.
class FullTier {
 public:
  FullTier(const Gpu& gpu, const GpuPlan& plan)
      : value_bytes_(plan.value_bytes),
        daemon_(StartTierDaemon(gpu, plan, {"--device-demote=true"})),
        client_(Need(Client::Connect({.endpoint = daemon_.endpoint()}))),
        admin_(Need(AdminClient::Connect({.endpoint = absl::StrCat("grpc+", daemon_.endpoint())}))),
        device_(Need(client_->OpenDevice(gpu.info().uuid))) {}

  uint64_t DemotedBytes() const {
    const v1::GetStatsResponse stats = Need(admin_->GetStats("default"));
    return stats.namespaces(0).device_tiers(0).objects().demoted_bytes();
  }
  // What is in the GPU is of no consequence.
  void PutUntilDemoted(uint64_t bytes) {
    const uint64_t enough = DemotedBytes() + bytes;
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    do {
      if (std::chrono::steady_clock::now() > end) {
        Die(absl::StrCat("in a minute of puts ", enough - DemotedBytes(), " bytes of ", bytes,
                         " did not move down"));
      }
      for (int i = 0; i < 4; ++i) PutOne();
    } while (DemotedBytes() < enough);
  }

 private:
  void PutOne() {
    const std::string key = absl::StrCat("key/", next_++);
    const ReserveItem item = {.key = key, .size_bytes = value_bytes_};
    auto reserved = device_->Reserve({&item, 1});
    // While everything is on its way down there is no room.
    if (!reserved[0].reservation.has_value()) {
      if (!absl::IsResourceExhausted(reserved[0].status)) {
        Die(absl::StrCat("reserve: ", reserved[0].status.message()));
      }
      return;
    }
    const PutResult put = device_->Commit({&*reserved[0].reservation, 1}, nullptr)[0];
    if (put.outcome != PutOutcome::kStored) Die(absl::StrCat("put: ", put.status.message()));
  }

  const uint64_t value_bytes_;
  const OwnDaemon daemon_;
  const std::unique_ptr<Client> client_;
  const std::unique_ptr<AdminClient> admin_;
  const std::unique_ptr<Device> device_;
  uint64_t next_ = 0;
};

}  // namespace

void Demotion(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows) {
  const uint64_t before = gpu.FreeBytes();
  FullTier tier(gpu, plan);
  tier.PutUntilDemoted(plan.value_bytes);
  // The worker's own context is this process's, and was there before.
  rows.Print(
      FootprintRow("gpu_footprint/demoting", before - std::min(before, gpu.FreeBytes()), plan));

  const cuda::Mapping source = gpu.Allocate(plan.value_bytes);
  std::vector<std::byte> registered(plan.value_bytes);
  gpu.Register(registered);
  const Side ours = {"ours", [&] {
                       const auto start = std::chrono::steady_clock::now();
                       const uint64_t from = tier.DemotedBytes();
                       tier.PutUntilDemoted(kValuesPerLook * plan.value_bytes);
                       const auto took = std::chrono::steady_clock::now() - start;
                       const double values = static_cast<double>(tier.DemotedBytes() - from) /
                                             static_cast<double>(plan.value_bytes);
                       return std::chrono::duration_cast<Nanoseconds>(took / values);
                     }};
  const Side plain = {"copies into registered memory", [&] {
                        gpu.Start();
                        for (size_t i = 0; i < kValuesPerLook; ++i) {
                          gpu.CopyToHost(registered.data(), source.address(), registered.size());
                        }
                        return gpu.Stop() / static_cast<int64_t>(kValuesPerLook);
                      }};
  const Measured measured = Measured::TakeIdle({ours, plain}, Statistic::kMean, plan.rounds);
  rows.Print(measured.Compare("gpu_demotion", {1}, Target::AtLeast(kLeastShareOfACopy)));
  gpu.Unregister(registered);
}

}  // namespace infercache::bench

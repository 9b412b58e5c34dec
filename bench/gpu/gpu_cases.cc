#include "bench/gpu/gpu_cases.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr size_t kBackToBack = 100;
// Calls between two looks at the clock, which takes as long as a hit.
constexpr size_t kHitsPerLook = 1000;
constexpr double kMostMicrosecondsOfAPin = 1;
constexpr double kMostMicrosecondsAboveTheCopy = 5;
constexpr double kLeastShareOfBandwidth = 0.95;

// A quarter of a tier is what one client may hold: all the values, twice over.
uint64_t TierBytes(uint64_t value_bytes) { return 8 * 8 * value_bytes; }

double GigabytesPerSecond(uint64_t bytes, double microseconds) {
  return static_cast<double>(bytes) / microseconds / 1000;
}

// A number of our own against a bound in its unit.
Row Bounded(const std::string& name, double ours, double most, const Plan& plan) {
  Row row;
  row.name = name;
  row.ours = ours;
  row.unit = "us";
  row.target = absl::StrFormat("<= %g us", most);
  if (!plan.quick) row.ok = ours <= most;
  row.note = "median of the rounds";
  return row;
}

}  // namespace

OwnDaemon StartTierDaemon(const Gpu& gpu, const GpuPlan& plan,
                          const std::vector<std::string>& more) {
  const uint64_t host_bytes = std::max(64 * kMiB, 16 * plan.value_bytes);
  std::vector<std::string> arguments = {
      "--default-devices", absl::StrCat(gpu.info().uuid, "=", TierBytes(plan.value_bytes))};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return OwnDaemon(plan.daemon_binary, "4k", host_bytes, arguments);
}

Row FootprintRow(const std::string& name, uint64_t taken, const GpuPlan& plan) {
  const uint64_t tier = TierBytes(plan.value_bytes);
  Row row;
  row.name = name;
  row.ours = (static_cast<double>(taken) - static_cast<double>(tier)) / kMiB;
  row.unit = "MiB";
  row.note = absl::StrCat("of the GPU's memory, beyond a tier of ", tier / kMiB,
                          " MiB; other processes must leave the GPU alone meanwhile");
  return row;
}

GpuCases::GpuCases(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows)
    : gpu_(gpu),
      plan_(plan),
      rows_(rows),
      daemon_(StartTierDaemon(gpu, plan)),
      client_(Need(Client::Connect({.endpoint = daemon_.endpoint()}))),
      device_(Need(client_->OpenDevice(gpu.info().uuid))),
      plain_(gpu.Allocate(kValues * plan.value_bytes)),
      target_(gpu.Allocate(plan.value_bytes)) {
  Fill();
}

void GpuCases::Fill() {
  std::vector<std::byte> value(plan_.value_bytes);
  for (size_t i = 0; i < kValues; ++i) {
    for (size_t j = 0; j < value.size(); ++j)
      value[j] = static_cast<std::byte>(i + j * 7 + j / 256);
    keys_.push_back(absl::StrCat("value/", i));
    const cuda::DevicePointer at = plain_.address() + i * plan_.value_bytes;
    gpu_.CopyFromHost(at, value.data(), value.size());
    gpu_.Synchronize();
    const PutResult put =
        device_->Put({.key = keys_[i], .source = at, .size_bytes = value.size()}, gpu_.stream());
    if (put.outcome != PutOutcome::kStored) Die(absl::StrCat("put: ", put.status.message()));
    // What comes back is what went in.
    std::vector<std::byte> back(value.size());
    const GetIntoResult got = device_->GetIntoHost(keys_[i], back);
    if (!got.hit || back != value) Die("the GPU gave back other bytes than were put");
  }
}

DeviceObject GpuCases::Hold(size_t i) const {
  DeviceGetResult got = device_->Get(keys_[i % kValues]);
  if (!got.hit()) Die(absl::StrCat("get: a miss: ", got.status.message()));
  return *std::move(got.object);
}

void GpuCases::GetInto(const std::string& key) const {
  const DeviceGetIntoResult got =
      device_->GetInto(key, target_.address(), plan_.value_bytes, gpu_.stream());
  if (!got.hit) Die(absl::StrCat("get into: ", got.status.message()));
  gpu_.Synchronize();
}

void GpuCases::LookupAndPin() {
  const Side ours = {"ours", [&, next = size_t{0}]() mutable {
                       const auto start = std::chrono::steady_clock::now();
                       for (size_t i = 0; i < kHitsPerLook; ++i) Hold(next++);
                       return Nanoseconds(std::chrono::steady_clock::now() - start) /
                              static_cast<int64_t>(kHitsPerLook);
                     }};
  const Measured measured = Measured::TakeIdle({ours}, Statistic::kMean, plan_.rounds);
  const Row row = measured.Compare("", {0}, std::nullopt);
  rows_.Print(Bounded("gpu_lookup_pin", row.ours, kMostMicrosecondsOfAPin, plan_.rounds));
}

void GpuCases::CopyBandwidth() {
  const uint64_t size = plan_.value_bytes;
  const Side ours = {"ours", [&] {
                       std::vector<DeviceObject> held;
                       for (size_t i = 0; i < kValues; ++i) held.push_back(Hold(i));
                       gpu_.Start();
                       for (size_t i = 0; i < kBackToBack; ++i) {
                         gpu_.Copy(target_.address(), held[i % kValues].address(), size);
                       }
                       return gpu_.Stop() / static_cast<int64_t>(kBackToBack);
                     }};
  const Side plain = {"the same from memory of its own", [&] {
                        gpu_.Start();
                        for (size_t i = 0; i < kBackToBack; ++i) {
                          gpu_.Copy(target_.address(), plain_.address() + i % kValues * size, size);
                        }
                        return gpu_.Stop() / static_cast<int64_t>(kBackToBack);
                      }};
  const Measured measured = Measured::TakeIdle({ours, plain}, Statistic::kMean, plan_.rounds);
  Row row = measured.Compare("gpu_copy_bandwidth", {1}, Target::AtLeast(kLeastShareOfBandwidth));
  absl::StrAppend(
      &row.note, absl::StrFormat("; %.0f beside %.0f GB/s read", GigabytesPerSecond(size, row.ours),
                                 GigabytesPerSecond(size, *row.peer)));
  rows_.Print(row);
}

void GpuCases::CallWithCopy() {
  const uint64_t size = plan_.value_bytes;
  const Side ours = {"ours", Timed([&, next = size_t{0}]() mutable {
                       const DeviceObject object = Hold(next++);
                       gpu_.Copy(target_.address(), object.address(), size);
                       gpu_.Synchronize();
                     })};
  const Side plain = {"copy and synchronize", Timed([&, next = size_t{0}]() mutable {
                        gpu_.Copy(target_.address(), plain_.address() + next++ % kValues * size,
                                  size);
                        gpu_.Synchronize();
                      })};
  const Side into = {"GetInto",
                     Timed([&, next = size_t{0}]() mutable { GetInto(keys_[next++ % kValues]); })};
  const Measured measured = Measured::TakeIdle({ours, plain, into}, Statistic::kMean, plan_.rounds);
  Row row = measured.Compare("gpu_call", {1}, std::nullopt);
  rows_.Print(row);
  rows_.Print(Bounded("gpu_call/above the copy", row.ours - *row.peer,
                      kMostMicrosecondsAboveTheCopy, plan_.rounds));
  rows_.Print(measured.Compare("gpu_call/GetInto", {2}, std::nullopt));
}

void GpuCases::BesideHostMemory() {
  const uint64_t size = plan_.value_bytes;
  std::vector<std::byte> pageable(size, std::byte{1}), registered(size, std::byte{1});
  gpu_.Register(registered);
  const std::string in_host = "only in host memory";
  const std::vector<std::span<const std::byte>> value = {pageable};
  const PutResult put = client_->Put({.key = in_host, .value = value});
  if (put.outcome != PutOutcome::kStored) Die(absl::StrCat("put: ", put.status.message()));

  const Side ours = {"ours",
                     Timed([&, next = size_t{0}]() mutable { GetInto(keys_[next++ % kValues]); })};
  const Side host = {"a hit in host memory", Timed([&] { GetInto(in_host); })};
  const Side plain = {"copy from pageable memory", Timed([&] {
                        gpu_.CopyFromHost(target_.address(), pageable.data(), size);
                        gpu_.Synchronize();
                      })};
  const Side fast = {"copy from registered memory", Timed([&] {
                       gpu_.CopyFromHost(target_.address(), registered.data(), size);
                       gpu_.Synchronize();
                     })};
  const Measured measured =
      Measured::TakeIdle({ours, host, plain, fast}, Statistic::kMean, plan_.rounds);
  rows_.Print(measured.Compare("gpu_hit/host tier", {1}, std::nullopt));
  rows_.Print(measured.Compare("gpu_hit/pageable", {2}, std::nullopt));
  rows_.Print(measured.Compare("gpu_hit/registered", {3}, std::nullopt));
  gpu_.Unregister(registered);
}

void DaemonFootprint(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows) {
  const uint64_t before = gpu.FreeBytes();
  const OwnDaemon daemon = StartTierDaemon(gpu, plan);
  rows.Print(FootprintRow("gpu_footprint", before - std::min(before, gpu.FreeBytes()), plan));
}

}  // namespace infercache::bench

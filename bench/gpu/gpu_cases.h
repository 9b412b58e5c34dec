// What is measured of objects in a GPU's memory; bench/README.md says what each row answers.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/compare/own_daemon.h"
#include "bench/compare/rounds.h"
#include "bench/compare/row.h"
#include "bench/gpu/gpu.h"
#include "infercache/client.h"
#include "infercache/device.h"

namespace infercache::bench {

struct GpuPlan {
  Plan rounds;
  std::string daemon_binary;
  uint64_t value_bytes = uint64_t{16} << 20;
};

// Rows that need a daemon with a tier, a client of it and values in both.
class GpuCases {
 public:
  GpuCases(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows);

  void LookupAndPin();
  void CopyBandwidth();
  void CallWithCopy();
  void BesideHostMemory();

 private:
  static constexpr size_t kValues = 8;  // together they stay in no GPU's cache

  void Fill();
  // One that is there.
  DeviceObject Hold(size_t i) const;
  void GetInto(const std::string& key) const;  // returns when the copy is done

  const Gpu& gpu_;
  const GpuPlan& plan_;
  RowPrinter& rows_;
  const OwnDaemon daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Device> device_;
  std::vector<std::string> keys_;
  cuda::Mapping plain_;   // the peer's values, one after the other
  cuda::Mapping target_;  // what everybody copies to
};

// A daemon with a tier, and `more` arguments.
OwnDaemon StartTierDaemon(const Gpu& gpu, const GpuPlan& plan,
                          const std::vector<std::string>& more = {});
// What such a daemon takes of a GPU besides its tier: `taken` bytes in all.
Row FootprintRow(const std::string& name, uint64_t taken, const GpuPlan& plan);
void DaemonFootprint(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows);
// The same if objects move down, and how fast they do.
void Demotion(const Gpu& gpu, const GpuPlan& plan, RowPrinter& rows);

}  // namespace infercache::bench

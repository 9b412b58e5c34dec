#include "client/src/own_export.h"

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache {
namespace {

// What one process has. A static, because memory belongs to processes; never destroyed, because
// clients may be statics too. A forked child has no use for it: CUDA does not work there.
struct ProcessExports {
  Mutex mu;
  std::vector<const OwnExport*> all ABSL_GUARDED_BY(mu);  // the latest last
};

ProcessExports& OfThisProcess() {
  static ProcessExports& exports = *new ProcessExports;
  return exports;
}

}  // namespace

OwnExport::OwnExport(std::string_view handle, const cuda::AddressRange& range)
    : handle_(handle), range_(range) {
  ProcessExports& exports = OfThisProcess();
  MutexLock lock(&exports.mu);
  exports.all.push_back(this);
}

OwnExport::~OwnExport() {
  if (guard_.inherited()) return;
  ProcessExports& exports = OfThisProcess();
  MutexLock lock(&exports.mu);
  std::erase(exports.all, this);
}

std::optional<cuda::AddressRange> OwnExport::Find(std::string_view handle) {
  ProcessExports& exports = OfThisProcess();
  MutexLock lock(&exports.mu);
  const auto it = std::find_if(exports.all.rbegin(), exports.all.rend(),
                               [&](const OwnExport* one) { return one->handle_ == handle; });
  if (it == exports.all.rend()) return std::nullopt;
  return (*it)->range_;
}

}  // namespace infercache

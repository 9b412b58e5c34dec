#include "server/gpu/host_registry.h"

#include "common/status_macros.h"

namespace infercache::gpu {

absl::StatusOr<HostRegistry::Use> HostRegistry::Add(
    std::span<std::byte> memory, std::shared_ptr<const cuda::PrimaryContext> context) {
  {
    MutexLock lock(&mu_);
    while (leaving_.contains(memory.data())) changed_.Wait(&mu_);
    if (entries_[memory.data()].uses++ > 0) return Use(shared_from_this(), memory.data());
  }
  Use use(shared_from_this(), memory.data());
  const cuda::Driver& driver = context->driver();
  RETURN_IF_ERROR(driver.Check(
      driver.api().mem_host_register(memory.data(), memory.size(), cuda::kHostRegisterPortable),
      "cuMemHostRegister of an arena"));
  MutexLock lock(&mu_);
  entries_[memory.data()].context = std::move(context);
  return use;
}

void HostRegistry::Remove(const std::byte* memory) {
  Entry last;
  {
    MutexLock lock(&mu_);
    const auto found = entries_.find(memory);
    if (--found->second.uses > 0) return;
    last = std::move(found->second);
    entries_.erase(found);
    if (last.context == nullptr) return;
    leaving_.insert(memory);
  }
  {
    // The one that it was registered in, whoever is the last to use it.
    const cuda::CurrentContext current(*last.context);
    // In a context that is dead it fails, and the driver lets go of the memory with the context.
    (void)last.context->driver().api().mem_host_unregister(const_cast<std::byte*>(memory));
  }
  last.context.reset();
  MutexLock lock(&mu_);
  leaving_.erase(memory);
  changed_.SignalAll();
}

}  // namespace infercache::gpu

#include "client/src/lent_mapping.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/own_export.h"
#include "common/status_macros.h"

namespace infercache {

// What is left of a mapping: unmapped, and only then told of, when it is destroyed. What cannot be
// unmapped (in a context that is dead) is not told of: its owner waits for the end of this process.
struct LentMapping::Unmapped final : DeviceThread::Kept {
  Unmapped(Mapped m, uint64_t a, std::shared_ptr<LocalConnection> c,
           std::shared_ptr<DeviceThread> t)
      : mapped(std::move(m)), allocation(a), connection(std::move(c)), thread(std::move(t)) {}
  ~Unmapped() override {
    const absl::Status closed = std::visit([](auto& one) { return one.Close(); }, mapped);
    if (closed.ok()) ReturnAllocation(*connection, allocation);
  }

  Mapped mapped;
  const uint64_t allocation;
  const std::shared_ptr<LocalConnection> connection;
  // Whatever is destroyed last, its thread is: on itself, and nobody waits for it.
  const std::shared_ptr<DeviceThread> thread;
};

void ReturnAllocation(LocalConnection& connection, uint64_t allocation) {
  v1::LocalRequest request;
  request.mutable_return_lent()->add_allocations(allocation);
  connection.Tell(request);
}

absl::StatusOr<std::shared_ptr<LentMapping>> LentMapping::Open(
    const v1::LentMemory& memory, const UniqueFd& descriptor, cuda::Device device,
    std::shared_ptr<DeviceThread> thread, std::shared_ptr<LocalConnection> connection,
    bool* never) {
  const auto made = [&](Mapped mapped) {
    return std::shared_ptr<LentMapping>(
        new LentMapping(std::move(mapped), memory, std::move(thread), std::move(connection)));
  };
  if (memory.kind() == v1::LentMemory::KIND_LEGACY) {
    cuda::IpcHandle handle;
    if (memory.handle().size() != sizeof handle.bytes) {
      return BadAnswer(absl::StrCat("a legacy handle of ", memory.handle().size(), " bytes"));
    }
    if (const auto own = OwnExport::Find(memory.handle()); own.has_value()) {
      if (own->bytes >= memory.size_bytes()) return made(OwnMemory{own->base});
      *never = true;
      return absl::InvalidArgumentError(absl::StrCat(
          "an allocation of ", own->bytes, " bytes that is said to have ", memory.size_bytes()));
    }
    std::memcpy(handle.bytes, memory.handle().data(), sizeof handle.bytes);
    ASSIGN_OR_RETURN(cuda::IpcMapping mapping,
                     cuda::IpcMapping::Open(thread->shared_context(), handle, memory.size_bytes(),
                                            {.exporter_pid = memory.pid(),
                                             .exporter_user = memory.owner_user(),
                                             .own_user = memory.session_user()},
                                            never));
    return made(std::move(mapping));
  }
  if (!descriptor.valid()) return BadAnswer("lent memory without handle and descriptor");
  ASSIGN_OR_RETURN(
      const cuda::Allocation allocation,
      cuda::Allocation::Import(thread->context().shared_driver(), descriptor, memory.size_bytes()));
  ASSIGN_OR_RETURN(cuda::Mapping mapping,
                   cuda::Mapping::Map(allocation, device, cuda::Mapping::Access::kRead));
  return made(std::move(mapping));
}

LentMapping::LentMapping(Mapped mapped, const v1::LentMemory& memory,
                         std::shared_ptr<DeviceThread> thread,
                         std::shared_ptr<LocalConnection> connection)
    : mapped_(std::move(mapped)),
      allocation_(memory.allocation()),
      bytes_(memory.size_bytes()),
      thread_(std::move(thread)),
      connection_(std::move(connection)) {}

LentMapping::~LentMapping() {
  DeviceThread& thread = *thread_;
  auto unmapped = std::make_unique<Unmapped>(std::move(mapped_), allocation_,
                                             std::move(connection_), std::move(thread_));
  if (thread.inherited()) {
    // The parent's mapping, its thread and its connection: none of them is here.
    (void)unmapped.release();
  } else {
    thread.Destroy(std::move(unmapped));
  }
}

cuda::DevicePointer LentMapping::address() const {
  return std::visit([](const auto& mapped) { return mapped.address(); }, mapped_);
}

}  // namespace infercache

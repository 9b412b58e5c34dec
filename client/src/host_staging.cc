#include "client/src/host_staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "common/status_macros.h"

namespace infercache {
namespace {

// Of what copies share a buffer: as the GPU's memory is aligned.
constexpr size_t kAlignment = 256;

}  // namespace

// With a stream of its own, for copies that are nobody else's.
class HostStaging::Buffer {
 public:
  static absl::StatusOr<std::unique_ptr<Buffer>> Make(std::shared_ptr<DeviceThread> thread) {
    const cuda::PrimaryContext& context = thread->context();
    const cuda::CurrentContext current(context);
    RETURN_IF_ERROR(current.status());
    const cuda::Driver& driver = context.driver();
    cuda::Stream stream = nullptr;
    RETURN_IF_ERROR(driver.Check(driver.api().stream_create(&stream, cuda::kStreamNonBlocking),
                                 "cuStreamCreate"));
    void* const base =
        mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
      (void)driver.api().stream_destroy(stream);
      return absl::ResourceExhaustedError("no memory to copy through");
    }
    // A fork's copy would be written to by nobody, and cost memory.
    (void)madvise(base, kBufferBytes, MADV_DONTFORK);
    // Without it copies are slow, and wait within the driver.
    const bool registered = driver.api().mem_host_register(base, kBufferBytes, 0) == cuda::kSuccess;
    return std::unique_ptr<Buffer>(
        new Buffer(std::move(thread), static_cast<std::byte*>(base), stream, registered));
  }
  // REQUIRES: the GPU is done with it.
  ~Buffer() {
    if (thread_->inherited()) return;
    const cuda::CurrentContext current(thread_->context());
    const cuda::Api& api = thread_->context().driver().api();
    // What stays registered stays mapped: what came there next would be taken for it.
    const bool unmaps = !registered_ || api.mem_host_unregister(base_) == cuda::kSuccess;
    (void)api.stream_destroy(stream_);
    if (unmaps) munmap(base_, kBufferBytes);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* base() const { return base_; }
  cuda::Stream stream() const { return stream_; }

 private:
  Buffer(std::shared_ptr<DeviceThread> thread, std::byte* base, cuda::Stream stream,
         bool registered)
      : thread_(std::move(thread)), base_(base), stream_(stream), registered_(registered) {}

  const std::shared_ptr<DeviceThread> thread_;
  std::byte* const base_;
  const cuda::Stream stream_;
  const bool registered_;
};

// A buffer that comes back when nobody uses it any more.
struct HostStaging::Used {
  Used(std::shared_ptr<HostStaging> s, std::unique_ptr<Buffer> b)
      : staging(std::move(s)), buffer(std::move(b)) {}
  ~Used() { staging->GiveBack(std::move(buffer)); }
  Used(const Used&) = delete;
  Used& operator=(const Used&) = delete;

  const std::shared_ptr<HostStaging> staging;
  std::unique_ptr<Buffer> buffer;
  size_t filled = 0;  // under the staging's mu_
};

// One that a stream reads, among others.
struct HostStaging::Read final : DeviceThread::Kept {
  explicit Read(std::shared_ptr<Used> u) : used(std::move(u)) {}
  const std::shared_ptr<Used> used;
};

// One that the GPU still writes to, and what it reads.
struct HostStaging::Abandoned final : DeviceThread::Kept {
  Abandoned(std::shared_ptr<HostStaging> s, std::unique_ptr<Buffer> b,
            std::shared_ptr<const void> source)
      : source_(std::move(source)), used_(std::move(s), std::move(b)) {}
  bool written() const override { return true; }
  const std::shared_ptr<const void> source_;
  const Used used_;
};

HostStaging::HostStaging(std::shared_ptr<DeviceThread> thread, std::string uuid)
    : thread_(std::move(thread)), uuid_(std::move(uuid)) {}
HostStaging::~HostStaging() = default;

absl::StatusOr<std::unique_ptr<HostStaging::Buffer>> HostStaging::Take(Clock::time_point deadline) {
  MutexLock lock(&mu_);
  if (!made_) {
    absl::Status status;
    for (size_t i = 0; i < kMaxBuffers && status.ok(); ++i) {
      auto buffer = Buffer::Make(thread_);
      status = buffer.status();
      if (buffer.ok()) spare_.push_back(*std::move(buffer));
    }
    if (spare_.empty()) return status;  // and the next copy tries it again
    made_ = true;
  }
  while (spare_.empty()) {
    if (!changed_.WaitUntil(&mu_, deadline)) break;
  }
  if (spare_.empty()) {
    return absl::DeadlineExceededError("the GPU did not end earlier copies in time");
  }
  return PopSpare();
}

std::unique_ptr<HostStaging::Buffer> HostStaging::TakeSpare() {
  MutexLock lock(&mu_);
  return spare_.empty() ? nullptr : PopSpare();
}

std::unique_ptr<HostStaging::Buffer> HostStaging::PopSpare() {
  std::unique_ptr<Buffer> buffer = std::move(spare_.back());
  spare_.pop_back();
  return buffer;
}

absl::StatusOr<HostStaging::Room> HostStaging::TakeRoom(size_t bytes, Clock::time_point deadline) {
  // What of it goes here goes without the lock, which it takes.
  std::shared_ptr<Used> used;
  const auto fill = [&used, bytes] {
    const size_t begin = used->filled;
    const size_t size = std::min(bytes, kBufferBytes - begin);
    used->filled =
        std::min(kBufferBytes, begin + (size + kAlignment - 1) / kAlignment * kAlignment);
    return Room{used, {used->buffer->base() + begin, size}};
  };
  {
    MutexLock lock(&mu_);
    used = filling_.lock();
    if (used != nullptr && used->filled < kBufferBytes) return fill();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, Take(deadline));
  used = std::make_shared<Used>(shared_from_this(), std::move(buffer));
  MutexLock lock(&mu_);
  filling_ = used;
  return fill();
}

void HostStaging::GiveBack(std::unique_ptr<Buffer> buffer) {
  MutexLock lock(&mu_);
  spare_.push_back(std::move(buffer));
  changed_.SignalAll();
}

absl::Status HostStaging::CopyToHost(cuda::DevicePointer from, std::span<std::byte> to,
                                     std::shared_ptr<const void> source,
                                     Clock::time_point deadline) {
  const cuda::Driver& driver = thread_->context().driver();
  // Two at a time: while the CPU empties one, the GPU fills the other.
  struct Piece {
    std::unique_ptr<Buffer> buffer;
    std::span<std::byte> to;
  };
  std::deque<Piece> begun;
  absl::Status status;
  while (status.ok() && (!to.empty() || !begun.empty())) {
    // Who has a buffer waits for no other: all might have one, and nobody come to an end.
    std::unique_ptr<Buffer> buffer;
    if (!begun.empty()) {
      if (!to.empty() && begun.size() < 2) buffer = TakeSpare();
    } else if (auto taken = Take(deadline); taken.ok()) {
      buffer = *std::move(taken);
    } else {
      status = taken.status();
      break;
    }
    if (buffer != nullptr) {
      Piece piece = {std::move(buffer), to.first(std::min(to.size(), kBufferBytes))};
      const cuda::CurrentContext current(thread_->context());
      status = driver.Check(driver.api().memcpy_dtoh_async(piece.buffer->base(), from,
                                                           piece.to.size(), piece.buffer->stream()),
                            "cuMemcpyDtoHAsync");
      from += piece.to.size();
      to = to.subspan(piece.to.size());
      begun.push_back(std::move(piece));
      continue;
    }
    status = thread_->AwaitStream(begun.front().buffer->stream(), deadline);
    if (!status.ok()) break;
    Piece done = std::move(begun.front());
    begun.pop_front();
    std::memcpy(done.to.data(), done.buffer->base(), done.to.size());
    GiveBack(std::move(done.buffer));
  }
  for (Piece& piece : begun) {
    const cuda::Stream stream = piece.buffer->stream();
    std::unique_ptr<DeviceThread::Kept> kept =
        std::make_unique<Abandoned>(shared_from_this(), std::move(piece.buffer), source);
    thread_->KeepOfOwnStream(stream, std::move(kept));
  }
  return status;
}

absl::Status HostStaging::CopyToDevice(cuda::DevicePointer to, std::span<const std::byte> from,
                                       cuda::Stream stream, Clock::time_point deadline) {
  const cuda::Driver& driver = thread_->context().driver();
  RETURN_IF_ERROR(thread_->CheckNotCapturing(stream));
  while (!from.empty()) {
    ASSIGN_OR_RETURN(const Room room, TakeRoom(from.size(), deadline));
    std::memcpy(room.bytes.data(), from.data(), room.bytes.size());
    const cuda::CurrentContext current(thread_->context());
    RETURN_IF_ERROR(driver.Check(
        driver.api().memcpy_htod_async(to, room.bytes.data(), room.bytes.size(), stream),
        "cuMemcpyHtoDAsync"));
    RETURN_IF_ERROR(thread_->KeepSurely(stream, std::make_unique<Read>(room.used), deadline));
    to += room.bytes.size();
    from = from.subspan(room.bytes.size());
  }
  return absl::OkStatus();
}

}  // namespace infercache

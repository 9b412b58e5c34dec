#include "client/src/local_session.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/loan_book.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

constexpr uint32_t kProtocolVersion = 1;
constexpr uint64_t kPopulateStepBytes = uint64_t{32} << 20;
constexpr uint64_t kMaxChunkBytes = uint64_t{1} << 48;  // what a record can name

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

absl::Status Differs(absl::string_view what, uint64_t said, uint64_t understood) {
  return absl::InternalError(
      absl::StrCat("the daemon's ", what, " is ", said, ", this client understands ", understood));
}

// [offset, offset + size) of a chunk; empty if it does not lie in it.
std::span<std::byte> Within(const std::vector<MappedSegment>& chunks, uint32_t chunk,
                            uint64_t offset, uint64_t size) {
  if (chunk >= chunks.size()) return {};
  const std::span<std::byte> bytes = chunks[chunk].bytes();
  if (offset > bytes.size() || size > bytes.size() - offset) return {};
  return bytes.subspan(offset, size);
}

}  // namespace

absl::Status CheckWelcome(const v1::Welcome& welcome) {
  if (welcome.version() != kProtocolVersion) {
    return Differs("version of the local protocol", welcome.version(), kProtocolVersion);
  }
  if (welcome.index_layout() != shm::kIndexLayoutVersion) {
    return Differs("index layout", welcome.index_layout(), shm::kIndexLayoutVersion);
  }
  if (welcome.page_layout() != shm::kSessionLayoutVersion) {
    return Differs("session page layout", welcome.page_layout(), shm::kSessionLayoutVersion);
  }
  if (welcome.slot_capacity() < 1 || welcome.slot_capacity() > kMaxPinSlots ||
      welcome.slot_limit() < 1 || welcome.slot_limit() > welcome.slot_capacity()) {
    return BadAnswer(
        absl::StrCat(welcome.slot_limit(), " of ", welcome.slot_capacity(), " pin slots"));
  }
  if (welcome.page_bytes() < shm::SessionPage::BytesFor(welcome.slot_capacity())) {
    return BadAnswer(absl::StrCat("a session page of ", welcome.page_bytes(), " bytes"));
  }
  if (welcome.chunk_count() < 1 || welcome.chunk_count() > kMaxArenaChunks ||
      welcome.chunk_bytes() < 1 || welcome.chunk_bytes() > kMaxChunkBytes) {
    return BadAnswer(absl::StrCat("an arena of ", welcome.chunk_count(), " chunks of ",
                                  welcome.chunk_bytes(), " bytes"));
  }
  if (welcome.put_access() < 0 || welcome.put_access() > v1::Welcome::PUT_ACCESS_IN_PLACE) {
    return BadAnswer(absl::StrCat("put access ", welcome.put_access()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<LocalSession>> LocalSession::Make(
    const v1::Welcome& welcome, const Hash128& fingerprint, Segments segments,
    std::shared_ptr<LocalConnection> connection) {
  if (!shm::CheckIndexHeader(segments.index.bytes())) {
    return BadAnswer("the index segment's header");
  }
  if (!shm::CheckSessionHeader(segments.page.bytes(), welcome.slot_capacity())) {
    return BadAnswer("the session page's header");
  }
  const uint64_t index_bytes = segments.index.bytes().size();
  std::shared_ptr<LocalSession> session(
      new LocalSession(welcome, fingerprint, std::move(segments), std::move(connection)));
  // Once more, as it was copied: the daemon may write it at any time.
  if (!shm::CheckIndexHeader(session->index().header(), index_bytes)) {
    return BadAnswer("the index segment's header");
  }
  return session;
}

LocalSession::LocalSession(const v1::Welcome& welcome, const Hash128& fingerprint,
                           Segments segments, std::shared_ptr<LocalConnection> connection)
    : connection_(std::move(connection)),
      segments_(std::move(segments)),
      index_(segments_.index.bytes()),
      page_(segments_.page.bytes(), welcome.slot_capacity()),
      fingerprint_(fingerprint),
      put_access_(welcome.put_access()),
      checksums_(welcome.checksums()),
      single_flight_(welcome.single_flight()),
      on_device_(!welcome.device().empty()),
      loans_(welcome.lending() ? LoanBook::Make(connection_) : nullptr),
      pin_budget_bytes_(welcome.pin_budget_bytes()),
      chunk_count_(welcome.chunk_count()),
      chunk_bytes_(welcome.chunk_bytes()),
      slots_(page_, welcome.slot_limit()) {}

std::span<const std::byte> LocalSession::Place(uint32_t chunk, uint64_t offset,
                                               uint64_t size) const {
  return Within(segments_.chunks, chunk, offset, size);
}

std::span<std::byte> LocalSession::WritablePlace(uint32_t chunk, uint64_t offset,
                                                 uint64_t size) const {
  return Within(segments_.writable_chunks, chunk, offset, size);
}

absl::StatusOr<std::shared_ptr<DeviceMemory>> LocalSession::UseDeviceMemory(MakeMemory make) {
  MutexLock lock(&device_mu_);
  if (device_memory_ != nullptr) [[likely]]
    return device_memory_;
  ASSIGN_OR_RETURN(device_memory_, make(segments_.device_chunks, chunk_bytes_));
  segments_.device_chunks.clear();
  return device_memory_;
}

bool LocalSession::TakeBudget(uint64_t bytes) {
  uint64_t pinned = pinned_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > pin_budget_bytes_ || pinned > pin_budget_bytes_ - bytes) return false;
  } while (!pinned_bytes_.compare_exchange_weak(pinned, pinned + bytes, std::memory_order_relaxed));
  return true;
}

void LocalSession::AskForSlots(uint32_t slots) {
  slots = std::min(slots, slots_.capacity());
  if (slots <= slots_.limit() || asking_for_slots_.exchange(true, std::memory_order_relaxed)) {
    return;
  }
  v1::LocalRequest request;
  request.mutable_grow_slots()->set_slots(slots);
  // The connection does not keep the session: it is the session that keeps the connection.
  constexpr std::chrono::seconds kPatience{10};
  connection_->Submit(request, std::chrono::steady_clock::now() + kPatience,
                      [session = weak_from_this()](LocalAnswer answer) {
                        const std::shared_ptr<LocalSession> self = session.lock();
                        if (self == nullptr) return;
                        if (answer.status.ok()) {
                          self->SlotsGranted(answer.response.slots_granted().slot_limit());
                        }
                        self->asking_for_slots_.store(false, std::memory_order_relaxed);
                      });
}

void LocalSession::SlotsGranted(uint32_t limit) {
  slots_.RaiseLimit(limit);
  grants_slots_.store(limit > 0, std::memory_order_relaxed);
}

bool LocalSession::PopulateStep() {
  const size_t readable = segments_.chunks.size();
  if (populated_segments_ == readable + segments_.writable_chunks.size()) return false;
  const MappedSegment& segment = populated_segments_ < readable
                                     ? segments_.chunks[populated_segments_]
                                     : segments_.writable_chunks[populated_segments_ - readable];
  const uint64_t size = std::min(kPopulateStepBytes, chunk_bytes_ - populated_bytes_);
  // The daemon has populated it: this only fills in page tables. A kernel that cannot leaves that
  // to the first touch.
  if (madvise(segment.bytes().data() + populated_bytes_, size,
              segment.writable() ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) != 0) {
    populated_segments_ = readable + segments_.writable_chunks.size();
    return false;
  }
  populated_bytes_ += size;
  if (populated_bytes_ == chunk_bytes_) {
    populated_bytes_ = 0;
    ++populated_segments_;
  }
  return true;
}

}  // namespace infercache

#include "client/src/local_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/loan_book.h"
#include "common/limits.h"

namespace infercache {
namespace {

constexpr uint32_t kProtocolVersion = 1;
constexpr uint64_t kPopulateStepBytes = uint64_t{32} << 20;
constexpr uint64_t kMaxChunkBytes = uint64_t{1} << 48;  // what a record can name

absl::Status Differs(absl::string_view what, uint64_t said, uint64_t understood) {
  return absl::InternalError(
      absl::StrCat("the daemon's ", what, " is ", said, ", this client understands ", understood));
}

// [offset, offset + size) of a chunk; empty if it does not lie in it.
std::span<std::byte> Within(std::span<std::byte> bytes, uint64_t offset, uint64_t size) {
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
  // There is no other way into a GPU's memory.
  if (!welcome.device().empty() && welcome.put_access() != v1::Welcome::PUT_ACCESS_IN_PLACE) {
    return BadAnswer(absl::StrCat("put access ", welcome.put_access(), " to a GPU's memory"));
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
      index_segment_(std::move(segments.index)),
      index_(index_segment_.bytes()),
      pins_(std::make_shared<SessionPins>(welcome, std::move(segments.page), connection_)),
      page_(pins_->page()),
      fingerprint_(fingerprint),
      put_access_(welcome.put_access()),
      checksums_(welcome.checksums()),
      single_flight_(welcome.single_flight()),
      on_device_(!welcome.device().empty()),
      loans_(welcome.lending() ? LoanBook::Make(connection_) : nullptr),
      chunk_bytes_(welcome.chunk_bytes()) {
  for (size_t i = 0; i < segments.chunks.size(); ++i) {
    const bool writes = i < segments.writable_chunks.size();
    chunks_.push_back(std::make_shared<ArenaChunk>(
        pins_, std::move(segments.chunks[i]),
        writes ? std::move(segments.writable_chunks[i]) : MappedSegment()));
  }
  if (!on_device_) return;
  const auto arena = std::make_shared<DeviceArena>(chunk_bytes_);
  for (UniqueFd& fd : segments.device_chunks) {
    chunks_.push_back(std::make_shared<ArenaChunk>(pins_, arena));
    arena->Add(chunks_.back(), std::move(fd));
  }
}

std::span<const std::byte> LocalSession::Place(uint32_t chunk, uint64_t offset,
                                               uint64_t size) const {
  if (chunk >= chunks_.size()) return {};
  return Within(chunks_[chunk]->readable().bytes(), offset, size);
}

std::span<std::byte> LocalSession::WritablePlace(uint32_t chunk, uint64_t offset,
                                                 uint64_t size) const {
  if (chunk >= chunks_.size()) return {};
  return Within(chunks_[chunk]->writable().bytes(), offset, size);
}

bool LocalSession::PopulateStep() {
  const size_t readable = on_device_ ? 0 : chunks_.size();
  const size_t all = put_access_ == v1::Welcome::PUT_ACCESS_IN_PLACE ? 2 * readable : readable;
  if (populated_segments_ == all) return false;
  const bool writes = populated_segments_ >= readable;
  const ArenaChunk& chunk = *chunks_[populated_segments_ - (writes ? readable : 0)];
  const MappedSegment& segment = writes ? chunk.writable() : chunk.readable();
  const uint64_t size = std::min(kPopulateStepBytes, chunk_bytes_ - populated_bytes_);
  // Where the kernel cannot, the first touch does it.
  if (!segment.FillPageTables(populated_bytes_, size)) {
    populated_segments_ = all;
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

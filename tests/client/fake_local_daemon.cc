#include "tests/client/fake_local_daemon.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "common/frame_channel.h"
#include "common/limits.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"
#include "tests/client/local_testing.h"

namespace infercache {
namespace {

constexpr uint32_t kSlots = 64;

MemorySegment MakeSegment(const char* name, uint64_t size) {
  auto made = MemorySegment::Create(name, size, MemorySegment::Access::kWritableForOthers);
  if (!made.ok()) std::abort();
  return *std::move(made);
}

// One bucket, no object.
void FormatIndex(std::span<std::byte> memory) {
  auto& header = *reinterpret_cast<shm::IndexHeader*>(memory.data());
  header.magic = shm::kIndexMagic;
  header.layout_version = shm::kIndexLayoutVersion;
  header.bucket_count = 1;
  header.overflow_bucket_count = 0;
  header.record_capacity = 1;
  header.buckets_offset = shm::kIndexPageBytes;
  header.overflow_offset = header.buckets_offset + sizeof(shm::Bucket);
  header.records_offset = header.overflow_offset;
  header.heap_offset = header.records_offset + 2 * sizeof(shm::Record);
  header.heap_bytes = 64;
  header.segment_bytes = memory.size();
}

}  // namespace

FakeLocalDaemon::FakeLocalDaemon(Script script)
    : script_(std::move(script)),
      path_(NewSocketPath()),
      index_(MakeSegment("fake-index", 2 * shm::kIndexPageBytes)),
      page_(MakeSegment("fake-page", shm::SessionPage::BytesFor(kSlots))),
      chunk_(MakeSegment("fake-chunk", kChunkBytes)),
      listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  FormatIndex(index_.bytes());
  shm::SessionPage::Format(page_.bytes(), kSlots);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_.get(), 64) != 0) {
    std::abort();
  }
  thread_ = std::thread([this] { Serve(); });
}

FakeLocalDaemon::~FakeLocalDaemon() {
  stop_ = true;
  shutdown(listener_.get(), SHUT_RDWR);
  thread_.join();
  unlink(path_.c_str());
}

void FakeLocalDaemon::Prepare(const v1::LocalRequest& request, Answer& answer) const {
  v1::LocalResponse& response = answer.response;
  response.set_id(request.id());
  if (request.id() == 0) answer.times = 0;
  switch (request.body_case()) {
    case v1::LocalRequest::kHello: {
      v1::Welcome& welcome = *response.mutable_welcome();
      welcome.set_version(1);
      welcome.set_index_bytes(index_.bytes().size());
      welcome.set_index_layout(shm::kIndexLayoutVersion);
      welcome.set_page_bytes(page_.bytes().size());
      welcome.set_page_layout(shm::kSessionLayoutVersion);
      welcome.set_slot_capacity(kSlots);
      welcome.set_slot_limit(kSlots);
      welcome.set_pin_budget_bytes(kChunkBytes);
      welcome.set_chunk_count(1);
      welcome.set_chunk_bytes(kChunkBytes);
      welcome.set_put_access(v1::Welcome::PUT_ACCESS_IN_PLACE);
      answer.descriptors = {index_.fd(), page_.fd()};
      break;
    }
    case v1::LocalRequest::kMapChunks:
      response.mutable_chunks()->set_count(1);
      answer.descriptors = {chunk_.fd()};
      break;
    case v1::LocalRequest::kReserve:
      for (int i = 0; i < request.reserve().items_size(); ++i) {
        response.mutable_reserved()->add_items()->set_reservation(i + 1);
      }
      break;
    case v1::LocalRequest::kCommit:
      for (int i = 0; i < request.commit().reservations_size(); ++i) {
        response.mutable_put_results()->add_results()->set_outcome(v1::LOCAL_PUT_STORED);
      }
      break;
    case v1::LocalRequest::kPutInline:
      for (int i = 0; i < request.put_inline().items_size(); ++i) {
        response.mutable_put_results()->add_results()->set_outcome(v1::LOCAL_PUT_STORED);
      }
      break;
    case v1::LocalRequest::kLookup:
      for (int i = 0; i < request.lookup().keys_size(); ++i) response.mutable_found()->add_items();
      break;
    case v1::LocalRequest::kRemove:
      response.mutable_removed()->set_removed(
          std::string((request.remove().keys_size() + 7) / 8, '\0'));
      break;
    case v1::LocalRequest::kListKeys:
      response.mutable_key_page();
      break;
    case v1::LocalRequest::kGrowSlots:
      response.mutable_slots_granted()->set_slot_limit(kSlots);
      break;
    default:
      response.mutable_empty();
      break;
  }
}

// False: the connection is over.
bool FakeLocalDaemon::ServeOne(int socket) {
  FrameReader reader(1);  // beside a Lend
  FrameWriter writer;
  bool open = true;
  while (open && !stop_) {
    pollfd item = {.fd = socket, .events = POLLIN, .revents = 0};
    if (poll(&item, 1, 20) <= 0) {
      // Somebody else's turn, if there is somebody.
      pollfd next = {.fd = listener_.get(), .events = POLLIN, .revents = 0};
      if (poll(&next, 1, 0) > 0) return true;
      continue;
    }
    const auto read =
        reader.Read(socket, kMaxFrameBytes, [&](std::string_view body, std::vector<UniqueFd>) {
          v1::LocalRequest request;
          request.ParseFromArray(body.data(), static_cast<int>(body.size()));
          Answer answer;
          Prepare(request, answer);
          script_(request, answer);
          for (int i = 0; i < answer.times; ++i) {
            if (!answer.raw.empty()) {
              (void)send(socket, answer.raw.data(), answer.raw.size(), MSG_NOSIGNAL);
              continue;
            }
            std::vector<UniqueFd> fds;
            for (const int fd : answer.descriptors) fds.emplace_back(dup(fd));
            writer.Add(answer.response.SerializeAsString(), std::move(fds));
            (void)writer.Flush(socket);
          }
          if (answer.close) open = false;
          return absl::OkStatus();
        });
    if (!read.ok()) open = false;
  }
  return open;
}

void FakeLocalDaemon::Serve() {
  while (!stop_) {
    const UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) continue;
    ++connections_;
    ServeOne(socket.get());
  }
}

}  // namespace infercache

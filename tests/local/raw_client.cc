#include "tests/local/raw_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache::local {
namespace {

absl::Status Failed(const char* call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", strerror(errno)));
}

// Waits for `events` until `deadline`.
absl::Status Await(int socket, short events, absl::Time deadline) {
  for (;;) {
    const auto left = std::max<int64_t>(absl::ToInt64Milliseconds(deadline - absl::Now()), 0);
    pollfd item = {.fd = socket, .events = events, .revents = 0};
    const int ready = poll(&item, 1, static_cast<int>(std::min<int64_t>(left, 1'000'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Failed("poll");
    if (ready == 0) return absl::DeadlineExceededError("the daemon is silent");
  }
}

}  // namespace

absl::StatusOr<SharedMapping> SharedMapping::Map(int fd, size_t bytes, bool writable) {
  void* base = mmap(nullptr, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return Failed("mmap");
  madvise(base, bytes, MADV_DONTFORK);
  SharedMapping mapping;
  mapping.base_ = static_cast<std::byte*>(base);
  mapping.size_ = bytes;
  return mapping;
}

SharedMapping::SharedMapping(SharedMapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}

SharedMapping& SharedMapping::operator=(SharedMapping&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  return *this;
}

SharedMapping::~SharedMapping() {
  if (base_ != nullptr) munmap(base_, size_);
}

absl::StatusOr<RawClient> RawClient::Connect(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Failed("socket");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return absl::UnavailableError("path too long");
  path.copy(address.sun_path, path.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Failed("connect");
  }
  return RawClient(std::move(fd));
}

RawClient::RawClient(UniqueFd socket)
    : socket_(std::move(socket)), reader_(std::make_unique<FrameReader>(kMaxFrameDescriptors)) {
  fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
}

absl::StatusOr<size_t> RawClient::TrySendBytes(std::string_view bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n =
        send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      sent += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      return sent;
    } else if (errno != EINTR) {
      return Failed("send");
    }
  }
  return sent;
}

absl::Status RawClient::SendBytes(std::string_view bytes, absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  for (;;) {
    ASSIGN_OR_RETURN(const size_t sent, TrySendBytes(bytes));
    bytes.remove_prefix(sent);
    if (bytes.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(Await(socket_.get(), POLLOUT, deadline));
  }
}

absl::Status RawClient::SendBytesWith(std::string_view bytes, std::span<const int> descriptors) {
  iovec piece = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(descriptors.size_bytes()));
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(c), descriptors.data(), descriptors.size_bytes());
  }
  const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  if (sent < 0) return Failed("sendmsg");
  return SendBytes(bytes.substr(static_cast<size_t>(sent)));
}

std::string RawClient::EncodeFrame(std::string_view body, uint8_t descriptors) {
  const auto size = static_cast<uint32_t>(body.size());
  std::string frame(reinterpret_cast<const char*>(&size), sizeof size);
  frame.push_back(static_cast<char>(descriptors));
  frame.append(3, '\0');
  frame.append(body);
  return frame;
}

absl::Status RawClient::Send(const v1::LocalRequest& request) {
  return SendFrame(request.SerializeAsString());
}

absl::StatusOr<RawClient::Received> RawClient::Receive(absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  while (received_.empty()) {
    if (closed_) return absl::UnavailableError("closed");
    RETURN_IF_ERROR(Await(socket_.get(), POLLIN, deadline));
    const auto read = reader_->Read(
        socket_.get(), 1 << 20, [this](std::string_view body, std::vector<UniqueFd> descriptors) {
          Received& received = received_.emplace_back();
          received.descriptors = std::move(descriptors);
          return received.response.ParseFromArray(body.data(), static_cast<int>(body.size()))
                     ? absl::OkStatus()
                     : absl::InternalError("the daemon sent no message");
        });
    // What came before the end is still to be handed out.
    if (absl::IsUnavailable(read.status())) {
      closed_ = true;
    } else if (!read.ok()) {
      return read.status();
    }
  }
  Received first = std::move(received_.front());
  received_.pop_front();
  return first;
}

absl::Status RawClient::AwaitClose(absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  for (;;) {
    const auto received = Receive(deadline - absl::Now());
    if (absl::IsUnavailable(received.status())) return absl::OkStatus();
    RETURN_IF_ERROR(received.status());
    if (received->response.id() == 0) KeepEvent(received->response);
  }
}

absl::StatusOr<RawClient::Received> RawClient::Ask(v1::LocalRequest request,
                                                   absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  request.set_id(++last_id_);
  RETURN_IF_ERROR(Send(request));
  return AwaitAnswer(request.id(), deadline);
}

absl::StatusOr<RawClient::Received> RawClient::AskWith(v1::LocalRequest request, int descriptor) {
  request.set_id(++last_id_);
  RETURN_IF_ERROR(
      SendBytesWith(EncodeFrame(request.SerializeAsString(), /*descriptors=*/1), {{descriptor}}));
  return AwaitAnswer(request.id(), absl::Now() + kPatience);
}

absl::StatusOr<RawClient::Received> RawClient::AwaitAnswer(uint64_t id, absl::Time deadline) {
  for (;;) {
    ASSIGN_OR_RETURN(Received received, Receive(deadline - absl::Now()));
    const v1::LocalResponse& response = received.response;
    if (response.id() == id) {
      if (response.code() == 0) return received;
      return absl::Status(static_cast<absl::StatusCode>(response.code()), response.message());
    }
    if (response.id() != 0) return absl::InternalError("an answer out of order");
    KeepEvent(response);
  }
}

void RawClient::KeepEvent(const v1::LocalResponse& event) {
  if (event.has_goodbye()) goodbyes_.push_back(event.goodbye());
  lent_events_.MergeFrom(event.lent_events());
  for (const v1::ClaimEvent& claim : event.claim_events().events()) claim_events_.push_back(claim);
}

absl::StatusOr<v1::ClaimEvent> RawClient::AwaitClaimEvent(absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  while (claim_events_.empty()) {
    ASSIGN_OR_RETURN(const Received received, Receive(deadline - absl::Now()));
    if (received.response.id() != 0) return absl::InternalError("an answer, no event");
    KeepEvent(received.response);
  }
  v1::ClaimEvent first = claim_events_.front();
  claim_events_.pop_front();
  return first;
}

absl::StatusOr<v1::LentEvents> RawClient::AwaitLentEvents(absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  while (lent_events_.free_size() + lent_events_.gone_size() == 0) {
    ASSIGN_OR_RETURN(const Received received, Receive(deadline - absl::Now()));
    if (received.response.id() != 0) return absl::InternalError("an answer, no event");
    KeepEvent(received.response);
  }
  return std::exchange(lent_events_, {});
}

absl::StatusOr<v1::Goodbye> RawClient::AwaitGoodbye(absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  while (goodbyes_.empty()) {
    ASSIGN_OR_RETURN(const Received received, Receive(deadline - absl::Now()));
    if (received.response.id() != 0) return absl::InternalError("an answer, no Goodbye");
    KeepEvent(received.response);
  }
  v1::Goodbye first = goodbyes_.front();
  goodbyes_.pop_front();
  return first;
}

v1::LocalRequest RawClient::MakeHello(const Opening& opening) {
  v1::LocalRequest request;
  v1::Hello& hello = *request.mutable_hello();
  hello.set_version(opening.version);
  hello.set_read_only(opening.read_only);
  hello.set_client(opening.client);
  hello.set_single_flight(opening.single_flight);
  hello.set_device(opening.device);
  hello.mutable_scope()->set_namespace_(opening.namespace_name);
  for (const auto& [key, value] : opening.fingerprint) {
    v1::FingerprintEntry& entry = *hello.mutable_scope()->add_fingerprint();
    entry.set_key(key);
    entry.set_value(value);
  }
  return request;
}

absl::Status RawClient::Open(const Opening& opening) {
  ASSIGN_OR_RETURN(Received received, Ask(MakeHello(opening)));
  if (received.descriptors.size() != 2) return absl::InternalError("no two descriptors");
  welcome_ = received.response.welcome();
  index_fd_ = std::move(received.descriptors[0]);
  page_fd_ = std::move(received.descriptors[1]);
  ASSIGN_OR_RETURN(index_, SharedMapping::Map(index_fd_.get(), welcome_.index_bytes(), false));
  ASSIGN_OR_RETURN(page_, SharedMapping::Map(page_fd_.get(), welcome_.page_bytes(), true));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<UniqueFd>> RawClient::FetchChunks() {
  std::vector<UniqueFd> chunks;
  while (chunks.size() < welcome_.chunk_count()) {
    v1::LocalRequest request;
    request.mutable_map_chunks()->set_first(static_cast<uint32_t>(chunks.size()));
    ASSIGN_OR_RETURN(Received received, Ask(request));
    if (received.descriptors.empty()) return absl::InternalError("no chunk came");
    for (UniqueFd& fd : received.descriptors) chunks.push_back(std::move(fd));
  }
  return chunks;
}

absl::Status RawClient::MapChunks() {
  const bool writable = welcome_.put_access() == v1::Welcome::PUT_ACCESS_IN_PLACE;
  ASSIGN_OR_RETURN(const std::vector<UniqueFd> chunks, FetchChunks());
  for (const UniqueFd& fd : chunks) {
    ASSIGN_OR_RETURN(SharedMapping mapping,
                     SharedMapping::Map(fd.get(), welcome_.chunk_bytes(), writable));
    chunks_.push_back(std::move(mapping));
  }
  return absl::OkStatus();
}

}  // namespace infercache::local

#include "client/src/local_link.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstBackOff{10};
constexpr milliseconds kMaxBackOff{1'000};
// As long as the daemon gives a connection to say Hello.
constexpr std::chrono::seconds kHandshakeTimeout{10};
// How long the end of a client waits for a daemon's answers to what it asked room for.
constexpr std::chrono::seconds kGiveBackTimeout{1};

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return absl::UnavailableError(absl::StrCat("socket: ", strerror(errno)));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  int result;
  do {
    result = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return fd;
  return absl::UnavailableError(
      absl::StrCat("no infercached at unix:", path, ": ", strerror(errno)));
}

std::string ProgramName() {
  return std::string(program_invocation_short_name).substr(0, kMaxClientNameBytes);
}

absl::Status MapChunk(const UniqueFd& fd, uint64_t size, bool writable,
                      std::vector<MappedSegment>& chunks) {
  ASSIGN_OR_RETURN(MappedSegment chunk, MappedSegment::Map(fd, size, writable));
  chunks.push_back(std::move(chunk));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalLink>> LocalLink::Start(Options options, LocalLanes& lanes) {
  auto io = IoThread::Acquire();
  if (!io.ok()) return io.status();
  std::unique_ptr<LocalLink> link(new LocalLink(std::move(options), lanes, *std::move(io)));
  link->io_->Add(link.get());
  return link;
}

LocalLink::LocalLink(Options options, LocalLanes& lanes, std::shared_ptr<IoThread> io)
    : options_(std::move(options)),
      lanes_(lanes),
      io_(std::move(io)),
      name_(absl::StrCat("infercached at unix:", options_.path)),
      back_off_(kFirstBackOff) {}

LocalLink::~LocalLink() {
  io_->Remove(this);
  // Only this thread is left.
  const absl::Status cancelled = absl::CancelledError("the client is being destroyed");
  {
    MutexLock lock(&mu_);
    closed_ = true;
    open_ = nullptr;
    why_ = Unshared(cancelled);
    changed_.SignalAll();
  }
  AnswerWaiting(LocalDeadline::min());
  if (attempt_ != nullptr) {
    attempt_->connection->Break(cancelled);
    attempt_->connection->Detach(cancelled);
  }
  lanes_.Install(nullptr);
  if (current_ == nullptr) return;
  current_->connection().Detach(cancelled);
  // Room that is granted after the end would be quarantined until this process is gone.
  current_->connection().AwaitReserved(steady_clock::now() + kGiveBackTimeout);
}

LocalLink::Opened LocalLink::Await(bool wait_for_daemon, LocalDeadline deadline) {
  MutexLock lock(&mu_);
  while (!Knows(wait_for_daemon)) {
    if (!changed_.WaitUntil(&mu_, deadline) && !Knows(wait_for_daemon)) {
      return {.session = nullptr,
              .status = absl::DeadlineExceededError(absl::StrCat(name_, " did not answer in time")),
              .reached = Reached::kNotInTime};
    }
  }
  return Known();
}

LocalLink::Opened LocalLink::Known() const { return {open_, Unshared(why_), reached_}; }

void LocalLink::WhenOpen(bool wait_for_daemon, LocalDeadline deadline, OnOpened on_opened) {
  Opened known;
  {
    MutexLock lock(&mu_);
    if (!Knows(wait_for_daemon)) {
      waiting_.push_back({wait_for_daemon, deadline, std::move(on_opened)});
      return io_->WakeBy(deadline);
    }
    known = Known();
  }
  on_opened(std::move(known));
}

LocalDeadline LocalLink::AnswerWaiting(LocalDeadline now) {
  std::vector<std::pair<OnOpened, Opened>> ready;
  LocalDeadline next = LocalDeadline::max();
  {
    MutexLock lock(&mu_);
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if (Knows(it->for_daemon)) {
        ready.emplace_back(std::move(it->on_opened), Known());
      } else if (it->deadline <= now) {
        ready.emplace_back(std::move(it->on_opened),
                           Opened{.session = nullptr,
                                  .status = absl::DeadlineExceededError(
                                      absl::StrCat(name_, " did not answer in time")),
                                  .reached = Reached::kNotInTime});
      } else {
        next = std::min(next, it->deadline);
        ++it;
        continue;
      }
      it = waiting_.erase(it);
    }
  }
  for (auto& [on_opened, opened] : ready) on_opened(std::move(opened));
  return next;
}

void LocalLink::OnEvents(int fd, uint32_t events) {
  // Neither is kept by the other's callbacks.
  const std::shared_ptr<LocalSession> current = current_;
  if (attempt_ != nullptr && attempt_->connection->fd() == fd) {
    attempt_->connection->OnEvents(events);
  } else if (current != nullptr && current->connection().fd() == fd) {
    current->connection().OnEvents(events);
  }
}

IoThread::Clock::time_point LocalLink::OnTimer(IoThread::Clock::time_point now) {
  LocalDeadline next = LocalDeadline::max();
  // A daemon that throws its clients out at once is not asked more and more often.
  if (current_ != nullptr && !retired_ && now - opened_at_ > kMaxBackOff) back_off_ = kFirstBackOff;
  if (current_ != nullptr && !current_->alive()) {
    DropSession(absl::UnavailableError(absl::StrCat(name_, " is gone")));
    Retry(now);
  } else if (current_ != nullptr && !retired_ && current_->connection().retired()) {
    Retire(
        SaidByDaemon(static_cast<uint32_t>(absl::StatusCode::kUnavailable),
                     "the daemon takes no new work: " + current_->connection().goodbye_reason()));
    Retry(now);
  }
  if (current_ != nullptr) next = std::min(next, current_->connection().OnTimer(now));
  if (attempt_ != nullptr) {
    next = std::min(next, attempt_->connection->OnTimer(now));
    if (attempt_->over) EndAttempt(now);
  }
  if (attempt_ == nullptr && (current_ == nullptr || retired_)) {
    if (next_attempt_ <= now) BeginAttempt(now);
    if (attempt_ != nullptr && attempt_->over) EndAttempt(now);
    // What it waits for wakes the thread, or its deadline does.
    if (attempt_ != nullptr) next = std::min(next, attempt_->deadline);
    if (attempt_ == nullptr && (current_ == nullptr || retired_)) {
      next = std::min(next, next_attempt_);
    }
  }
  return std::min(next, AnswerWaiting(now));
}

bool LocalLink::OnIdle() { return current_ != nullptr && !retired_ && current_->PopulateStep(); }

void LocalLink::Retry(LocalDeadline now) {
  next_attempt_ = now + back_off_;
  back_off_ = std::min(2 * back_off_, kMaxBackOff);
}

void LocalLink::Retire(const absl::Status& why) {
  retired_ = true;
  MutexLock lock(&mu_);
  open_ = nullptr;
  why_ = Unshared(why);
  reached_ = Reached::kYes;
}

void LocalLink::DropSession(const absl::Status& why) {
  {
    MutexLock lock(&mu_);
    open_ = nullptr;
    why_ = Unshared(why);
    reached_ = Reached::kNo;
  }
  lanes_.Install(nullptr);
  current_->connection().Break(why);
  current_->connection().Detach(why);
  // Unmaps it, but for chunks in which somebody holds a view.
  current_ = nullptr;
  retired_ = false;
}

void LocalLink::BeginAttempt(LocalDeadline now) {
  attempt_ = std::make_unique<Attempt>();
  attempt_->deadline = now + kHandshakeTimeout;
  auto socket = ConnectTo(options_.path);
  if (!socket.ok()) return FinishAttempt(socket.status());
  attempt_->connection = std::make_shared<LocalConnection>(*std::move(socket), name_, io_, this);
  SayHello();
}

void LocalLink::SayHello() {
  v1::LocalRequest request;
  v1::Hello& hello = *request.mutable_hello();
  hello.set_version(1);
  *hello.mutable_scope() = options_.scope;
  hello.set_client(ProgramName());
  hello.set_single_flight(true);
  hello.set_device(options_.device);
  attempt_->connection->Submit(request, attempt_->deadline,
                               [this](LocalAnswer answer) { TakeWelcome(std::move(answer)); });
}

void LocalLink::TakeWelcome(LocalAnswer answer) {
  if (!answer.status.ok()) return FinishAttempt(answer.status);
  if (absl::Status status = CheckWelcome(answer.response.welcome()); !status.ok()) {
    return FinishAttempt(std::move(status));
  }
  if (answer.descriptors.size() != 2) {
    return FinishAttempt(BadAnswer("a welcome without its two descriptors"));
  }
  if (answer.response.welcome().device() != options_.device) {
    return FinishAttempt(absl::UnimplementedError(
        absl::StrCat(name_, " knows nothing of the memory of GPUs: it is too old")));
  }
  attempt_->welcome = std::move(*answer.response.mutable_welcome());
  auto index = MappedSegment::Map(answer.descriptors[0], attempt_->welcome.index_bytes(),
                                  /*writable=*/false);
  if (!index.ok()) return FinishAttempt(index.status());
  auto page = MappedSegment::Map(answer.descriptors[1], attempt_->welcome.page_bytes(),
                                 /*writable=*/true);
  if (!page.ok()) return FinishAttempt(page.status());
  attempt_->segments.index = *std::move(index);
  attempt_->segments.page = *std::move(page);
  AskForChunks();
}

void LocalLink::AskForChunks() {
  v1::LocalRequest request;
  request.mutable_map_chunks()->set_first(static_cast<uint32_t>(chunks_taken()));
  attempt_->connection->Submit(request, attempt_->deadline,
                               [this](LocalAnswer answer) { TakeChunks(std::move(answer)); });
}

void LocalLink::TakeChunks(LocalAnswer answer) {
  if (!answer.status.ok()) return FinishAttempt(answer.status);
  LocalSession::Segments& segments = attempt_->segments;
  const v1::Chunks& sent = answer.response.chunks();
  const size_t lacking = attempt_->welcome.chunk_count() - chunks_taken();
  if (sent.first() != chunks_taken() || answer.descriptors.empty() ||
      answer.descriptors.size() > lacking || sent.count() != answer.descriptors.size()) {
    return FinishAttempt(BadAnswer(absl::StrCat(answer.descriptors.size(), " chunks from ",
                                                sent.first(), " on, ", lacking, " are lacking")));
  }
  const bool writes = attempt_->welcome.put_access() == v1::Welcome::PUT_ACCESS_IN_PLACE;
  for (UniqueFd& fd : answer.descriptors) {
    // Imported by who first uses it: a GPU that hangs does not keep this thread from its work.
    if (!options_.device.empty()) {
      segments.device_chunks.push_back(std::move(fd));
      continue;
    }
    const uint64_t size = attempt_->welcome.chunk_bytes();
    absl::Status status = MapChunk(fd, size, /*writable=*/false, segments.chunks);
    if (status.ok() && writes) {
      status = MapChunk(fd, size, /*writable=*/true, segments.writable_chunks);
    }
    if (!status.ok()) return FinishAttempt(std::move(status));
  }
  if (chunks_taken() < attempt_->welcome.chunk_count()) return AskForChunks();
  FinishAttempt(absl::OkStatus());
}

// Called from callbacks of the attempt's connection, which EndAttempt may destroy: so that comes
// later.
void LocalLink::FinishAttempt(absl::Status status) {
  attempt_->over = true;
  attempt_->status = std::move(status);
  io_->WakeBy(LocalDeadline::min());
}

void LocalLink::EndAttempt(LocalDeadline now) {
  const std::unique_ptr<Attempt> attempt = std::move(attempt_);
  absl::Status status = std::move(attempt->status);
  std::shared_ptr<LocalSession> session;
  if (status.ok()) {
    auto made = LocalSession::Make(attempt->welcome, options_.fingerprint,
                                   std::move(attempt->segments), attempt->connection);
    status = made.status();
    if (made.ok()) session = *std::move(made);
  }
  if (session == nullptr) {
    if (attempt->connection != nullptr) {
      attempt->connection->Break(status);
      attempt->connection->Detach(status);
    }
    Retry(now);
    MutexLock lock(&mu_);
    // While a session lives on that takes no new work, its word counts for more.
    if (current_ == nullptr || !IsUnreachable(status)) {
      why_ = Unshared(status);
      reached_ = IsUnreachable(status) ? Reached::kNo : Reached::kYes;
    }
    first_attempt_over_ = true;
    changed_.SignalAll();
    return;
  }
  lanes_.Install(session);
  if (current_ != nullptr) {
    // Retired. Its views and reservations keep its connection open.
    current_->connection().Detach(absl::UnavailableError(absl::StrCat(name_, " took its leave")));
  }
  current_ = session;
  retired_ = false;
  opened_at_ = now;
  MutexLock lock(&mu_);
  open_ = std::move(session);
  first_attempt_over_ = true;
  changed_.SignalAll();
}

}  // namespace infercache

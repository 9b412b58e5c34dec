#include "client/src/local_connection.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "common/limits.h"

namespace infercache {
namespace {

using std::chrono::steady_clock;

// Read in one turn.
constexpr size_t kReadBudget = size_t{1} << 20;
// How long after readers that take turns the I/O thread looks for what comes unasked (Goodbye).
constexpr std::chrono::seconds kLookAgain{1};

v1::LocalResponse::BodyCase ExpectedBody(const v1::LocalRequest& request) {
  switch (request.body_case()) {
    case v1::LocalRequest::kHello:
      return v1::LocalResponse::kWelcome;
    case v1::LocalRequest::kMapChunks:
      return v1::LocalResponse::kChunks;
    case v1::LocalRequest::kReserve:
      return v1::LocalResponse::kReserved;
    case v1::LocalRequest::kCommit:
    case v1::LocalRequest::kPutInline:
      return v1::LocalResponse::kPutResults;
    case v1::LocalRequest::kLookup:
      return v1::LocalResponse::kFound;
    case v1::LocalRequest::kRemove:
      return v1::LocalResponse::kRemoved;
    case v1::LocalRequest::kListKeys:
      return v1::LocalResponse::kKeyPage;
    case v1::LocalRequest::kGrowSlots:
      return v1::LocalResponse::kSlotsGranted;
    case v1::LocalRequest::kGetOrReserve:
      return v1::LocalResponse::kClaimAnswers;
    case v1::LocalRequest::kLend:
      return v1::LocalResponse::kLent;
    case v1::LocalRequest::kTakeBack:
      return v1::LocalResponse::kTakenBack;
    case v1::LocalRequest::kBorrow:
      return v1::LocalResponse::kBorrowed;
    case v1::LocalRequest::kMapLent:
      return v1::LocalResponse::kLentMemory;
    default:
      return v1::LocalResponse::kEmpty;
  }
}

}  // namespace

void LocalConnection::AwaitReadable(int socket, LocalDeadline deadline) {
  const auto left = std::max(deadline - steady_clock::now(), steady_clock::duration::zero());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  timespec timeout = {.tv_sec = std::min<time_t>(seconds.count(), 3600),
                      .tv_nsec = std::chrono::nanoseconds(left - seconds).count()};
  pollfd item = {.fd = socket, .events = POLLIN | POLLRDHUP, .revents = 0};
  ppoll(&item, 1, &timeout, nullptr);
}

LocalConnection::LocalConnection(UniqueFd socket, std::string name, std::shared_ptr<IoThread> io,
                                 IoThread::Charge* charge)
    : socket_(std::move(socket)), name_(std::move(name)), io_(std::move(io)) {
  MutexLock lock(&mu_);
  if (!io_->Watch(socket_.get(), EPOLLIN | EPOLLRDHUP, charge)) {
    over_ = absl::ResourceExhaustedError("no room for another descriptor to watch");
    broken_.store(true, std::memory_order_relaxed);
  }
}

// Nothing is under way any more: Detach or Break came before. Shut, because a child's copy of the
// socket would keep the session open. A child itself closes its copy, and nothing else.
LocalConnection::~LocalConnection() {
  if (!guard_.inherited()) shutdown(socket_.get(), SHUT_RDWR);
}

absl::Status LocalConnection::Send(v1::LocalRequest& request, Pending& pending,
                                   UniqueFd descriptor) {
  if (!over_.ok()) return Unshared(over_);
  if (writer_.unsent_bytes() > kMaxUnsentRequestBytes || pending_.size() >= kMaxPendingRequests) {
    return absl::ResourceExhaustedError(absl::StrCat(name_, " takes no more: ", pending_.size(),
                                                     " requests and ", writer_.unsent_bytes(),
                                                     " bytes wait for it"));
  }
  request.set_id(next_id_);
  encoded_.clear();
  if (!request.AppendToString(&encoded_) || encoded_.size() > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request of ", encoded_.size(), " bytes; the limit is ", kMaxFrameBytes));
  }
  pending_.emplace_hint(pending_.end(), next_id_, std::move(pending));
  ++next_id_;
  std::vector<UniqueFd> descriptors;
  if (descriptor.valid()) descriptors.push_back(std::move(descriptor));
  writer_.Add(encoded_, std::move(descriptors));
  Flush();
  return absl::OkStatus();
}

void LocalConnection::Flush() {
  const auto flushed = writer_.Flush(socket_.get());
  if (flushed.ok()) return SetWatch(watch_readable_, !*flushed);
  // Whoever reads finds what the peer has said before, and then that it is gone.
  shutdown(socket_.get(), SHUT_RDWR);
}

void LocalConnection::SetWatch(bool readable, bool writable) {
  if (io_ == nullptr || (readable == watch_readable_ && writable == watch_writable_)) return;
  watch_readable_ = readable;
  watch_writable_ = writable;
  io_->ChangeWatch(socket_.get(), EPOLLRDHUP | (readable ? uint32_t{EPOLLIN} : 0) |
                                      (writable ? uint32_t{EPOLLOUT} : 0));
}

LocalAnswer LocalConnection::Call(v1::LocalRequest& request, LocalDeadline deadline,
                                  UniqueFd descriptor) {
  Waiter waiter;
  MutexLock lock(&mu_);
  const uint64_t id = next_id_;
  Pending pending = {.expected = ExpectedBody(request), .deadline = deadline, .waiter = &waiter};
  const absl::Status sent = Send(request, pending, std::move(descriptor));
  if (!sent.ok()) return {.status = sent, .reached = Reached::kNo, .sent = false};
  Await(id, waiter, deadline);
  return std::move(waiter.answer);
}

void LocalConnection::Await(uint64_t id, Waiter& waiter, LocalDeadline deadline) {
  while (!waiter.done) {
    if (steady_clock::now() >= deadline) {
      pending_.at(id).waiter = nullptr;
      waiter.answer = {
          .status = absl::DeadlineExceededError(absl::StrCat(name_, " did not answer in time")),
          .reached = Reached::kNotInTime};
      return;
    }
    if (reading_) {
      ++waiters_;
      changed_.WaitUntil(&mu_, deadline);
      --waiters_;
      continue;
    }
    reading_ = true;
    mu_.Unlock();
    AwaitReadable(socket_.get(), deadline);
    Ready ready = ReadAnswers();
    mu_.Lock();
    reading_ = false;
    if (waiters_ > 0) changed_.SignalAll();
    // The I/O thread left the socket to this one.
    if (ReadsUnasked()) SetWatch(/*readable=*/true, watch_writable_);
    if (ready.empty()) continue;
    mu_.Unlock();
    Run(std::move(ready));
    mu_.Lock();
  }
}

void LocalConnection::Submit(v1::LocalRequest& request, LocalDeadline deadline,
                             OnAnswer on_answer) {
  absl::Status sent;
  Pending pending = {
      .expected = ExpectedBody(request), .deadline = deadline, .on_answer = std::move(on_answer)};
  {
    MutexLock lock(&mu_);
    const uint64_t id = next_id_;
    sent = Send(request, pending);
    if (sent.ok()) {
      deadlines_.emplace(deadline, id);
      SetWatch(/*readable=*/true, watch_writable_);
      if (deadlines_.begin()->second == id && io_ != nullptr) io_->WakeBy(deadline);
    }
  }
  if (sent.ok()) return;
  pending.on_answer({.status = std::move(sent), .reached = Reached::kNo, .sent = false});
}

bool LocalConnection::Tell(v1::LocalRequest& request) {
  MutexLock lock(&mu_);
  return TellLocked(request);
}

bool LocalConnection::TellLocked(v1::LocalRequest& request) {
  // What gives back is bounded by what there is to give back.
  const bool gives_back = request.has_abort() || request.has_release() || request.has_give_up() ||
                          request.has_return_lent() || request.has_take_back();
  if (broken() || (!gives_back && writer_.unsent_bytes() > kMaxUnsentRequestBytes)) return false;
  const v1::LocalResponse::BodyCase expected = ExpectedBody(request);
  const bool answered = request.has_abort() || request.has_take_back();
  request.set_id(answered ? next_id_ : 0);
  encoded_.clear();
  if (!request.AppendToString(&encoded_) || encoded_.size() > kMaxFrameBytes) return false;
  if (answered) {
    pending_.emplace_hint(pending_.end(), next_id_++,
                          Pending{.expected = expected, .deadline = LocalDeadline::max()});
  }
  writer_.Add(encoded_);
  Flush();
  return true;
}

LocalConnection::Ready LocalConnection::ReadAnswers() {
  Ready ready;
  const auto read =
      reader_.Read(socket_.get(), kReadBudget,
                   [this, &ready](std::string_view body, std::vector<UniqueFd> descriptors) {
                     return OnFrame(body, std::move(descriptors), &ready);
                   });
  if (read.ok()) return ready;
  Break(absl::IsUnavailable(read.status())
            ? absl::UnavailableError(absl::StrCat(name_, " closed the connection"))
            : BadAnswer(read.status().message()));
  return ready;
}

absl::Status LocalConnection::OnFrame(std::string_view body, std::vector<UniqueFd> descriptors,
                                      Ready* ready) {
  LocalAnswer answer;
  answer.descriptors = std::move(descriptors);
  v1::LocalResponse& response = answer.response;
  if (!response.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return absl::InvalidArgumentError("a frame that is no answer");
  }
  MutexLock lock(&mu_);
  if (response.id() == 0) {
    // Events of later daemons are none of this client's business.
    if (response.has_goodbye()) {
      goodbye_reason_ = response.goodbye().reason().substr(0, kMaxDaemonMessageBytes);
      retired_.store(true, std::memory_order_relaxed);
      if (io_ != nullptr) io_->WakeBy(LocalDeadline::min());
    }
    if (response.has_lent_events()) {
      OnLentEvents(std::move(*response.mutable_lent_events()), ready);
      return absl::OkStatus();
    }
    return OnClaimEvents(std::move(*response.mutable_claim_events()), ready);
  }
  const auto it = pending_.find(response.id());
  if (it == pending_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("an answer to nothing (", response.id(), ")"));
  }
  if (response.code() == 0 && response.body_case() != it->second.expected) {
    return absl::InvalidArgumentError("an answer to another kind of request");
  }
  if (response.code() != 0) answer.status = SaidByDaemon(response.code(), response.message());
  if (!std::ranges::all_of(answer.descriptors, &UniqueFd::valid)) {
    GiveBack(response);
    answer.descriptors.clear();
    answer.status = absl::ResourceExhaustedError("this process is out of file descriptors");
  }
  if (it->second.expected == v1::LocalResponse::kClaimAnswers) {
    if (absl::Status status = OnClaimAnswers(response.id(), answer); !status.ok()) return status;
  }
  Pending pending = std::move(it->second);
  deadlines_.erase({pending.deadline, it->first});
  pending_.erase(it);
  Deliver(std::move(pending), std::move(answer), ready);
  return absl::OkStatus();
}

void LocalConnection::Deliver(Pending pending, LocalAnswer answer, Ready* ready) {
  if (pending.waiter != nullptr) {
    pending.waiter->answer = std::move(answer);
    pending.waiter->done = true;
    if (waiters_ > 0) changed_.SignalAll();
  } else if (pending.on_answer) {
    ready->emplace_back(std::move(pending.on_answer), std::move(answer));
  } else {
    GiveBack(answer.response);
  }
}

void LocalConnection::FailAll(const absl::Status& status, Reached reached, Ready* ready) {
  for (auto& [id, pending] : std::exchange(pending_, {})) {
    Deliver(std::move(pending), {.status = Unshared(status), .reached = reached}, ready);
  }
  deadlines_.clear();
  FailFlights(status, reached, ready);
  EndLending(status, ready);
  if (waiters_ > 0) changed_.SignalAll();
}

void LocalConnection::Run(Ready ready) {
  for (auto& [on_answer, answer] : ready) on_answer(std::move(answer));
}

void LocalConnection::Detach(const absl::Status& status) {
  Ready ready;
  std::shared_ptr<IoThread> io;
  {
    MutexLock lock(&mu_);
    if (over_.ok()) over_ = Unshared(status);
    // The answers may still come, and bring what is to be given back.
    for (auto& [id, pending] : pending_) {
      Pending nobody = {.expected = pending.expected, .deadline = LocalDeadline::max()};
      Deliver(std::exchange(pending, std::move(nobody)),
              {.status = Unshared(status), .reached = Reached::kNo}, &ready);
    }
    deadlines_.clear();
    FailFlights(status, Reached::kNo, &ready);
    EndLending(status, &ready);
    io = std::move(io_);
    io_ = nullptr;
  }
  if (io != nullptr) io->Unwatch(socket_.get());
  Run(std::move(ready));
}

void LocalConnection::Break(const absl::Status& status) {
  Ready ready;
  {
    MutexLock lock(&mu_);
    if (broken_.exchange(true, std::memory_order_relaxed)) return;
    if (over_.ok()) over_ = Unshared(status);
    FailAll(status, absl::IsInternal(status) ? Reached::kYes : Reached::kNo, &ready);
    // To the I/O thread, a hang-up as any other.
    shutdown(socket_.get(), SHUT_RDWR);
    if (io_ != nullptr) io_->WakeBy(LocalDeadline::min());
  }
  Run(std::move(ready));
}

void LocalConnection::OnEvents(uint32_t events) {
  {
    MutexLock lock(&mu_);
    if ((events & EPOLLOUT) != 0) Flush();
    if ((events & ~uint32_t{EPOLLOUT}) == 0) return;
    if (reading_) {
      // A waiting thread reads; it may well be quicker every time.
      SetWatch(/*readable=*/false, watch_writable_);
      watch_again_ = steady_clock::now() + kLookAgain;
      return;
    }
    reading_ = true;
  }
  Ready ready = ReadAnswers();
  {
    MutexLock lock(&mu_);
    reading_ = false;
    if (waiters_ > 0) changed_.SignalAll();
  }
  Run(std::move(ready));
}

LocalDeadline LocalConnection::OnTimer(LocalDeadline now) {
  Ready ready;
  LocalDeadline next = LocalDeadline::max();
  {
    MutexLock lock(&mu_);
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      Pending& pending = pending_.at(deadlines_.begin()->second);
      deadlines_.erase(deadlines_.begin());
      ready.emplace_back(std::exchange(pending.on_answer, nullptr),
                         LocalAnswer{.status = absl::DeadlineExceededError(
                                         absl::StrCat(name_, " did not answer in time")),
                                     .reached = Reached::kNotInTime});
    }
    EndOverdueFlights(now, &ready);
    if (watch_again_ <= now) {
      watch_again_ = LocalDeadline::max();
      SetWatch(/*readable=*/true, watch_writable_);
    }
    next = watch_again_;
    if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
    if (!flight_deadlines_.empty()) next = std::min(next, flight_deadlines_.begin()->first);
  }
  Run(std::move(ready));
  return next;
}

std::string LocalConnection::goodbye_reason() const {
  MutexLock lock(&mu_);
  return goodbye_reason_;
}

}  // namespace infercache

#include "server/local/quarantine.h"

#include <poll.h>

#include <asio/post.hpp>

namespace infercache::local {
namespace {

using std::chrono::steady_clock;

// Thrown away in one turn: a peer that never stops sending has the thread no longer than others.
constexpr size_t kWasteBudget = 64 * 1024;

bool IsReadable(int descriptor) {
  pollfd item = {.fd = descriptor, .events = POLLIN, .revents = 0};
  return poll(&item, 1, 0) > 0;
}

}  // namespace

QuarantineBooks::Entries::iterator QuarantineBooks::Add(std::string_view namespace_name,
                                                        uint64_t bytes) {
  Entries entry;
  entry.push_back({std::string(namespace_name), bytes, steady_clock::now()});
  MutexLock lock(&mu_);
  entries_.splice(entries_.begin(), entry);
  return entries_.begin();
}

void QuarantineBooks::Remove(Entries::iterator entry) {
  Entries removed;
  MutexLock lock(&mu_);
  removed.splice(removed.begin(), entries_, entry);
}

uint64_t QuarantineBooks::count() const {
  MutexLock lock(&mu_);
  return entries_.size();
}

template <class Predicate>
store::AgedBytes QuarantineBooks::Sum(Predicate counts) const {
  const auto now = steady_clock::now();
  store::AgedBytes sum;
  MutexLock lock(&mu_);
  for (const Entry& entry : entries_) {
    if (!counts(entry)) continue;
    const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - entry.since);
    sum.Add(entry.bytes, age.count() < 0 ? 0 : static_cast<uint64_t>(age.count()));
  }
  return sum;
}

store::AgedBytes QuarantineBooks::Aged() const {
  return Sum([](const Entry&) { return true; });
}

store::AgedBytes QuarantineBooks::AgedIn(std::string_view namespace_name) const {
  return Sum([&](const Entry& entry) { return entry.namespace_name == namespace_name; });
}

Quarantined::Quarantined(QuarantineBooks& books, std::string_view namespace_name,
                         store::WriteLease lease)
    : books_(&books),
      entry_(books.Add(namespace_name, lease.size_bytes())),
      lease_(std::move(lease)) {
  lease_.Quarantine();
}

Quarantined::Quarantined(Quarantined&& other) noexcept
    : books_(std::exchange(other.books_, nullptr)),
      entry_(other.entry_),
      lease_(std::move(other.lease_)) {}

Quarantined::~Quarantined() {
  if (books_ != nullptr) books_->Remove(entry_);
}

Quarantine::Quarantine(asio::io_context& context, Closer& closer)
    : closer_(closer), strand_(asio::make_strand(context)) {}

bool Quarantine::Watch::Assign(Witnesses witnesses) {
  bool waits = witnesses.process.valid() || witnesses.connection.valid();
  asio::error_code error;
  if (witnesses.process.valid()) {
    process.assign(witnesses.process.get(), error);
    if (error) {
      waits = false;
    } else {
      (void)witnesses.process.Release();
    }
  }
  if (witnesses.connection.valid()) {
    const int released = witnesses.connection.Release();
    connection.assign(released, error);
    if (error) {
      waits = false;
      closer.CloseSocket(released);
    }
  }
  return waits;
}

void Quarantine::Watch::Close() {
  asio::error_code ignored;
  process.close(ignored);
  if (connection.is_open()) closer.CloseSocket(connection.release());
}

void Quarantine::Hold(Witnesses witnesses, std::vector<Quarantined> held,
                      std::unique_ptr<QuarantinedSession> session,
                      std::unique_ptr<Lending::Member> borrowed) {
  auto watch = std::make_shared<Watch>(strand_, closer_, std::move(witnesses.outlived),
                                       std::move(held), std::move(session), std::move(borrowed));
  // Without a way to wait nothing can show that the bytes are free: they stay until Clear.
  const bool waits = watch->Assign(std::move(witnesses));
  asio::post(strand_, [this, watch, waits] {
    watches_.insert(watch);
    if (waits) Await(watch);
  });
}

void Quarantine::Await(const std::shared_ptr<Watch>& watch) {
  if (watch->process.is_open()) {
    watch->process.async_wait(asio::posix::stream_descriptor::wait_read,
                              [this, watch](const asio::error_code& error) {
                                if (!error) OnProcess(watch);
                              });
    return;
  }
  // The kernel closes what a process has open before it reports its death.
  if (watch->outlived && !IsReadable(watch->connection.native_handle())) {
    std::exchange(watch->outlived, nullptr)();
  }
  watch->connection.async_wait(asio::posix::stream_descriptor::wait_read,
                               [this, watch](const asio::error_code& error) {
                                 if (!error) OnConnection(watch);
                               });
}

void Quarantine::OnProcess(const std::shared_ptr<Watch>& watch) {
  if (!watches_.contains(watch)) return;  // cleared after it had become readable
  if (watch->connection.is_open()) {
    asio::error_code ignored;
    watch->process.close(ignored);
    Await(watch);
    return;
  }
  watches_.erase(watch);
}

void Quarantine::OnConnection(const std::shared_ptr<Watch>& watch) {
  if (!watches_.contains(watch)) return;
  if (!closer_.Drain(watch->connection.native_handle(), kWasteBudget)) {
    Await(watch);
    return;
  }
  watches_.erase(watch);
}

void Quarantine::Clear() {
  asio::post(strand_, [this] {
    for (const auto& watch : watches_) {
      watch->Close();
      watch->held.clear();
      watch->borrowed.reset();
    }
    watches_.clear();
  });
}

}  // namespace infercache::local

// A worker that holds as much of a namespace as it can, says so, and stays until it is killed: what
// the case worker_killed kills.
//
//   infercache_held_worker ENDPOINT NAMESPACE COUNT
//
// Prints "held" once it has COUNT pins, of objects that it has deleted since, COUNT claims and
// COUNT reservations. Ends with its standard input.

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"
#include "infercache/client.h"

namespace infercache::bench {
namespace {

constexpr uint64_t kHeldObjectBytes = 4096;

class Holder {
 public:
  Holder(Client& client, size_t count) : client_(client), count_(count) {}

  void HoldAll() {
    Pin();
    Claim();
    Reserve();
  }

 private:
  std::vector<std::string> Keys(const char* prefix) const {
    std::vector<std::string> keys;
    for (size_t i = 0; i < count_; ++i) keys.push_back(absl::StrCat(prefix, i));
    return keys;
  }

  void Pin() {
    const std::vector<std::string> keys = Keys("pinned:");
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const std::string value(kHeldObjectBytes, 'v');
    std::vector<PutItem> items;
    for (const std::string_view key : views) {
      PutItem& item = items.emplace_back();
      item.key = key;
      item.value = {std::as_bytes(std::span(value))};
    }
    for (const PutResult& put : client_.Put(items)) {
      if (put.outcome != PutOutcome::kStored) Die("a put: " + put.status.ToString());
    }
    for (GetResult& got : client_.View(views)) {
      if (!got.hit()) Die("a view: " + got.status.ToString());
      pinned_.push_back(*std::move(got.object));
    }
    // Their bytes can be used again once nobody pins them.
    if (const KeysResult gone = client_.Delete(views); !gone.status.ok()) {
      Die("Delete: " + gone.status.ToString());
    }
  }

  void Claim() {
    const std::vector<std::string> keys = Keys("claimed:");
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const RequestId id = client_.SubmitGetOrReserve(views);
    while (claims_.size() < count_) {
      pollfd done = {.fd = client_.event_fd(), .events = POLLIN, .revents = 0};
      poll(&done, 1, /*timeout=*/-1);
      for (Completion& completion : client_.Drain()) {
        if (completion.id != id) continue;
        for (GetOrReservePiece& piece : completion.get_or_reserve) {
          if (!piece.result.claim) Die("a claim: " + piece.result.status.ToString());
          claims_.push_back(*std::move(piece.result.claim));
        }
      }
    }
  }

  void Reserve() {
    const std::vector<std::string> keys = Keys("reserved:");
    std::vector<ReserveItem> items;
    for (const std::string& key : keys)
      items.push_back({.key = key, .size_bytes = kHeldObjectBytes});
    for (ReserveResult& reserved : client_.Reserve(items)) {
      if (!reserved.reservation) Die("a reservation: " + reserved.status.ToString());
      reservations_.push_back(*std::move(reserved.reservation));
    }
  }

  Client& client_;
  const size_t count_;
  std::vector<Object> pinned_;
  std::vector<infercache::Claim> claims_;
  std::vector<Reservation> reservations_;
};

int Main(int argc, char** argv) {
  if (argc != 4) Die(absl::StrCat("usage: ", argv[0], " ENDPOINT NAMESPACE COUNT"));
  ClientOptions options;
  options.endpoint = argv[1];
  options.namespace_name = argv[2];
  const auto client = Need(Client::Connect(std::move(options)));
  Holder holder(*client, std::strtoull(argv[3], nullptr, 10));
  holder.HoldAll();
  std::puts("held");
  std::fflush(stdout);
  for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
  }
  return 0;
}

}  // namespace
}  // namespace infercache::bench

int main(int argc, char** argv) { return infercache::bench::Main(argc, argv); }

// A worker of the stress test: reads or writes through the client library until its standard input
// ends, and checks every byte that it gets.
//
//   infercache_stress_worker ENDPOINT reader|writer SEED
//
// Prints "running" once it has done something, and its counts at the end. Exits with 3, after a
// line that says what, if a byte was wrong; with 4 if a call took longer than it may.

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infercache/client.h"
#include "tests/store/pattern.h"

namespace infercache::chaos {
namespace {

using infercache::testing::FillTagged;
using infercache::testing::kTaggedHeaderBytes;
using infercache::testing::MatchesTagged;
using infercache::testing::Mix;
using std::chrono::steady_clock;

constexpr uint64_t kKeys = 2000;
constexpr size_t kHeldViews = 12;
// The deadline of every call, and the most that the calls of a step, three at most, may take.
constexpr absl::Duration kDeadline = absl::Seconds(5);
constexpr std::chrono::seconds kHang{15};

std::string KeyOf(uint64_t tag) {
  std::string key = "stress:" + std::to_string(tag);
  if (tag % 5 == 0) key.resize(60 + tag % 200, 'x');  // in the key heap
  return key;
}

[[noreturn]] void Wrong(uint64_t tag, const char* when) {
  std::printf("WRONG bytes of %s %s\n", KeyOf(tag).c_str(), when);
  std::fflush(stdout);
  _exit(3);
}

bool InputHasEnded() {
  pollfd item = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  return poll(&item, 1, 0) > 0;
}

class Worker {
 public:
  Worker(const std::string& endpoint, uint64_t seed) : random_(Mix(seed)) {
    ClientOptions options;
    options.endpoint = endpoint;
    options.deadline = kDeadline;
    auto connected = Client::Connect(std::move(options));
    if (!connected.ok() || (*connected)->lane() != Lane::kLocal) {
      std::fprintf(stderr, "%s\n", connected.status().ToString().c_str());
      _exit(2);
    }
    client_ = *std::move(connected);
  }

  void Run(void (Worker::*step)()) {
    for (uint64_t i = 0; !InputHasEnded(); ++i) {
      const auto start = steady_clock::now();
      (this->*step)();
      if (steady_clock::now() - start > kHang) {
        std::printf("HANG: a step took %lld s\n",
                    static_cast<long long>(std::chrono::duration_cast<std::chrono::seconds>(
                                               steady_clock::now() - start)
                                               .count()));
        std::fflush(stdout);
        _exit(4);
      }
      if (i == 0) {
        std::printf("running\n");
        std::fflush(stdout);
      }
    }
    for (size_t i = 0; i < held_.size(); ++i) LetGo(i);
    std::printf("%llu hits %llu misses %llu stored %llu refused\n",
                static_cast<unsigned long long>(hits_), static_cast<unsigned long long>(misses_),
                static_cast<unsigned long long>(stored_),
                static_cast<unsigned long long>(refused_));
  }

  void ReadStep() {
    const uint64_t tag = Next() % kKeys;
    switch (Next() % 4) {
      case 0:
        return CopyOut(tag);
      case 1:
        return Match(tag);
      default:
        return View(tag);
    }
  }

  void WriteStep() {
    const uint64_t tag = Next() % kKeys;
    switch (Next() % 8) {
      case 0: {
        const std::string key = KeyOf(tag);
        const std::string_view view = key;
        (void)client_->Delete(std::span(&view, 1));
        return;
      }
      case 1:
      case 2:
      case 3:
        return PutInPlace(tag);
      default:
        return Put(tag);
    }
  }

 private:
  uint64_t Next() { return random_ = Mix(random_); }
  uint64_t Size() {
    return kTaggedHeaderBytes + (Next() % 4 == 0 ? Next() % (200 << 10) : Next() % (8 << 10));
  }

  void View(uint64_t tag) {
    GetResult got = client_->Get(KeyOf(tag));
    ++(got.hit() ? hits_ : misses_);
    if (!got.hit()) return;
    if (!MatchesTagged(got.object->bytes(), tag)) Wrong(tag, "at the hit");
    const size_t place = Next() % kHeldViews;
    LetGo(place);
    held_[place].emplace(*std::move(got.object), tag);
  }
  // The bytes must be what they were, however long they were held.
  void LetGo(size_t place) {
    if (held_[place] && !MatchesTagged(held_[place]->first.bytes(), held_[place]->second)) {
      Wrong(held_[place]->second, "while they were held");
    }
    held_[place].reset();
  }
  void CopyOut(uint64_t tag) {
    buffer_.resize(256 << 10);
    const GetIntoResult got = client_->GetInto(KeyOf(tag), buffer_);
    ++(got.hit ? hits_ : misses_);
    if (got.hit && !MatchesTagged(std::span(buffer_).first(got.size_bytes), tag)) {
      Wrong(tag, "in a copy");
    }
  }
  void Match(uint64_t tag) {
    std::vector<std::string> keys;
    for (uint64_t i = 0; i < 64; ++i) keys.push_back(KeyOf((tag + i) % kKeys));
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    (void)client_->Match(views);
  }

  void Count(const PutResult& result) {
    ++(result.outcome == PutOutcome::kRefused ? refused_ : stored_);
  }
  void Put(uint64_t tag) {
    buffer_.resize(Size());
    FillTagged(buffer_, tag, Next());
    PutItem item;
    const std::string key = KeyOf(tag);
    item.key = key;
    item.value = {buffer_};
    item.overwrite = Next() % 2 == 0;
    Count(client_->Put(item));
  }
  void PutInPlace(uint64_t tag) {
    const std::string keys[] = {KeyOf(tag), KeyOf((tag + 1) % kKeys)};
    const ReserveItem items[] = {{.key = keys[0], .size_bytes = Size(), .overwrite = true},
                                 {.key = keys[1], .size_bytes = Size(), .overwrite = true}};
    std::vector<ReserveResult> reserved = client_->Reserve(items);
    std::vector<Reservation> written;
    for (size_t i = 0; i < reserved.size(); ++i) {
      if (!reserved[i].reservation) continue;
      FillTagged(reserved[i].reservation->bytes(), (tag + i) % kKeys, Next());
      // Some writers give up.
      if (Next() % 16 != 0) written.push_back(*std::move(reserved[i].reservation));
    }
    for (const PutResult& result : client_->Commit(written)) Count(result);
  }

  std::unique_ptr<Client> client_;
  uint64_t random_;
  std::vector<std::byte> buffer_;
  std::vector<std::optional<std::pair<Object, uint64_t>>> held_{kHeldViews};
  uint64_t hits_ = 0, misses_ = 0, stored_ = 0, refused_ = 0;
};

int Main(int argc, char** argv) {
  if (argc != 4) return 2;
  Worker worker(argv[1], std::strtoull(argv[3], nullptr, 10));
  worker.Run(std::string_view(argv[2]) == "writer" ? &Worker::WriteStep : &Worker::ReadStep);
  return 0;
}

}  // namespace
}  // namespace infercache::chaos

int main(int argc, char** argv) { return infercache::chaos::Main(argc, argv); }

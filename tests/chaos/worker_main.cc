// A worker of the same-host lane that goes to one step of the protocol, says so, and stays there:
// for tests that kill or stop it.
//
//   infercache_test_worker SOCKET STEP [fork] [device=UUID]
//
// Prints "at STEP" once it is there, then waits until its standard input ends. With `fork`, a child
// that inherited everything but the mappings waits beside it. With a device its session is one with
// a tier, whose chunks it has and does not map: it knows no driver. The key "visible" must be
// there.

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/fingerprint.h"
#include "common/shm/reader.h"
#include "tests/chaos/steps.h"
#include "tests/local/raw_client.h"

namespace infercache::chaos {
namespace {

using local::RawClient;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "worker: %s\n", status.ToString().c_str());
  _exit(1);
}

// At one step; the members are what it holds there.
class Worker {
 public:
  Worker(std::string socket_path, std::string step, std::string device)
      : socket_path_(std::move(socket_path)),
        step_(std::move(step)),
        opening_({.namespace_name = "default", .device = std::move(device)}) {}

  void Go() {
    auto client = RawClient::Connect(socket_path_);
    Check(client.status());
    client_ = std::make_unique<RawClient>(*std::move(client));
    if (step_ == "connected") return;
    if (step_ == "half_hello") return SendHalf(RawClient::MakeHello(opening_));
    if (step_ == "hello_sent") {
      v1::LocalRequest hello = RawClient::MakeHello(opening_);
      hello.set_id(1);
      return Check(client_->Send(hello));
    }
    Check(client_->Open(opening_));
    if (step_ == "open") return;
    if (step_ == "fetched" || !opening_.device.empty()) {
      auto chunks = client_->FetchChunks();
      Check(chunks.status());
      chunks_ = *std::move(chunks);
      if (step_ == "fetched") return;
    } else {
      Check(client_->MapChunks());
      if (step_ == "mapped") return;
    }
    if (GoToAPut() || GoToAGet() || GoToAClaim()) return;
    std::fprintf(stderr, "worker: no step '%s'\n", step_.c_str());
    _exit(2);
  }

 private:
  bool GoToAPut() {
    if (step_ == "half_inline" || step_ == "inline_sent") {
      v1::LocalRequest request;
      auto& item = *request.mutable_put_inline()->add_items();
      item.mutable_object()->set_key("reserved");
      item.mutable_object()->set_size_bytes(8192);
      item.set_value(std::string(8192, 'i'));
      if (step_ == "half_inline") {
        SendHalf(request);
      } else {
        SendUnread(request);
      }
      return true;
    }
    if (step_ == "half_reserve") {
      SendHalf(MakeReserve());
      return true;
    }
    if (step_ == "reserve_sent") {
      SendUnread(MakeReserve());
      return true;
    }
    for (const char* later : {"reserved", "half_written", "written", "half_write", "half_commit",
                              "commit_sent", "committed", "abort_sent", "aborted"}) {
      if (step_ == later) return GoOnFromAReservation();
    }
    return false;
  }

  bool GoOnFromAReservation() {
    Reserve(MakeReserve());
    if (step_ == "reserved") return true;
    v1::LocalRequest request;
    if (step_ == "half_write") {
      auto& write = *request.mutable_write();
      write.set_reservation(place_.reservation());
      write.set_data(std::string(kObjectBytes / 2, 'w'));
      SendHalf(request);
      return true;
    }
    if (opening_.device.empty()) {
      const auto bytes = client_->chunk(place_.chunk()).subspan(place_.offset(), kObjectBytes);
      std::memset(bytes.data(), 'w', step_ == "half_written" ? bytes.size() / 2 : bytes.size());
    }
    if (step_ == "half_written" || step_ == "written") return true;
    if (step_ == "abort_sent" || step_ == "aborted") {
      request.mutable_abort()->add_reservations(place_.reservation());
    } else {
      request.mutable_commit()->add_reservations(place_.reservation());
    }
    if (step_ == "half_commit") {
      SendHalf(request);
    } else if (step_ == "commit_sent" || step_ == "abort_sent") {
      SendUnread(request);
    } else {
      Check(client_->Ask(request).status());
    }
    return true;
  }

  bool GoToAClaim() {
    if (step_ != "claim_sent" && step_ != "claimed" && step_ != "claim_reserved") return false;
    v1::LocalRequest request;
    request.mutable_get_or_reserve()->add_keys("reserved");
    request.mutable_get_or_reserve()->set_wait_ms(60'000);
    if (step_ == "claim_sent") {
      SendUnread(request);
      return true;
    }
    const auto answer = client_->Ask(request);
    Check(answer.status());
    if (step_ == "claimed") return true;
    request = MakeReserve();
    request.mutable_reserve()->mutable_items(0)->set_claim(
        answer->response.claim_answers().items(0).claim());
    Reserve(request);
    return true;
  }

  bool GoToAGet() {
    if (step_ == "lookup_sent" || step_ == "leased" || step_ == "release_sent") {
      v1::LocalRequest request;
      request.mutable_lookup()->add_keys("visible");
      if (step_ == "lookup_sent") {
        SendUnread(request);
        return true;
      }
      const auto answer = client_->Ask(request);
      Check(answer.status());
      const uint64_t lease = answer->response.found().items(0).lease();
      if (lease == 0) Check(absl::NotFoundError("visible"));
      if (step_ == "leased") return true;
      request = {};
      request.mutable_release()->add_leases(lease);
      Check(client_->Send(request));
      return true;
    }
    if (step_ == "grow_sent") {
      v1::LocalRequest request;
      request.mutable_grow_slots()->set_slots(4096);
      SendUnread(request);
      return true;
    }
    if (step_ == "touching") {
      // In the middle of a batch: the words are written, the position is not.
      for (uint64_t i = 0; i < 100; ++i) client_->page().touch(0, i).store(shm::MakePin(1, 2));
      return true;
    }
    if (step_ != "pinned") return false;
    shm::SessionPage page = client_->page();
    page.RaiseSlotsInUse(1);
    const shm::IndexView index = client_->index();
    const Hash128 hash = HashKey(index.header().hash_seed, Fingerprint().hash(), "visible");
    const auto found = shm::FindAndPin(index, hash, "visible", /*now_ms=*/0, page.slot(0));
    if (found.outcome != shm::FindOutcome::kPinned) Check(absl::NotFoundError("visible"));
    return true;
  }

  static v1::LocalRequest MakeReserve() {
    v1::LocalRequest request;
    auto& item = *request.mutable_reserve()->add_items();
    item.set_key("reserved");
    item.set_size_bytes(kObjectBytes);
    return request;
  }

  void Reserve(const v1::LocalRequest& request) {
    const auto answer = client_->Ask(request);
    Check(answer.status());
    place_ = answer->response.reserved().items(0);
    if (place_.reservation() == 0) Check(absl::ResourceExhaustedError(place_.message()));
  }

  // All of it; the answer comes or not, and nobody reads it.
  void SendUnread(v1::LocalRequest request) {
    request.set_id(9);
    Check(client_->Send(request));
  }

  void SendHalf(v1::LocalRequest request) {
    request.set_id(7);
    const std::string frame = RawClient::EncodeFrame(request.SerializeAsString());
    Check(client_->SendBytes(std::string_view(frame).substr(0, frame.size() / 2)));
  }

  const std::string socket_path_;
  const std::string step_;
  const local::Opening opening_;
  std::unique_ptr<RawClient> client_;
  std::vector<UniqueFd> chunks_;
  v1::ReservedItem place_;
};

void WaitForTheEndOfInput() {
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

int Main(int argc, char** argv) {
  if (argc < 3) return 2;
  bool with_child = false;
  std::string_view device;
  for (int i = 3; i < argc; ++i) {
    const std::string_view argument = argv[i];
    constexpr std::string_view kDevice = "device=";
    if (argument == "fork") with_child = true;
    if (argument.substr(0, kDevice.size()) == kDevice) device = argument.substr(kDevice.size());
  }
  Worker worker(argv[1], argv[2], std::string(device));
  worker.Go();
  if (with_child && fork() == 0) {
    WaitForTheEndOfInput();
    _exit(0);
  }
  std::printf("at %s\n", argv[2]);
  std::fflush(stdout);
  WaitForTheEndOfInput();
  _exit(0);
}

}  // namespace
}  // namespace infercache::chaos

int main(int argc, char** argv) { return infercache::chaos::Main(argc, argv); }

// A worker with a GPU's memory that goes as far as one step, says so with a line, and stays there
// until it is killed or its input ends. The step "traffic" is work without an end (tier_traffic.h):
// it is said after the first round, its counts at the end; exits with 3 if a byte was wrong.
// "blocks" is the same where objects move down. What is "committed" is of the character w. The
// steps "putting" and "committing" are said before a call that is to wait for a stream; a line for
// each of its items follows, and that the worker has let go of what is still its own.
//
//   gpu_worker SOCKET DEVICE STEP

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "client/src/device_impl.h"
#include "tests/gpu/device_buffer.h"
#include "tests/gpu/tier_traffic.h"
#include "tests/or_die.h"

namespace infercache::gpu {
namespace {

constexpr uint64_t kObjectBytes = uint64_t{64} << 10;

// Stays, with all it has.
[[noreturn]] void Stay(const std::string& step) {
  std::printf("%s\n", step.c_str());
  std::fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  _exit(0);
}

bool InputHasEnded() {
  pollfd item = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  return poll(&item, 1, 0) > 0;
}

int WorkForever(Device& device, const std::string& uuid, TierTraffic::ViewInHost view) {
  const auto driver = OrDie(cuda::Driver::Load());
  DeviceBuffer buffer(driver, OrDie(cuda::FindDevice(*driver, uuid)).ordinal);
  TierTraffic traffic(device, buffer, static_cast<uint64_t>(getpid()), std::move(view));
  while (traffic.wrong() == 0 && !InputHasEnded()) {
    traffic.Round();
    if (traffic.rounds() == 1) std::puts("traffic");
    std::fflush(stdout);
  }
  traffic.LetGoOfAll();
  std::printf("%d wrong %d rounds %d hits %d in host memory %d stored %d refused\n",
              int(traffic.wrong()), int(traffic.rounds()), int(traffic.hits()),
              int(traffic.host_hits()), int(traffic.stored()), int(traffic.refused()));
  std::fflush(stdout);
  return traffic.wrong() == 0 ? 0 : 3;
}

// Of "new", and over what is there. With the daemon asked for all it will be asked for.
int CallThatWaits(Device& device, const std::string& uuid, const std::string& step) {
  const auto driver = OrDie(cuda::Driver::Load());
  DeviceBuffer buffer(driver, OrDie(cuda::FindDevice(*driver, uuid)).ordinal);
  const ReserveItem items[] = {{.key = "new", .size_bytes = 1000},
                               {.key = "there", .size_bytes = 1000, .overwrite = true}};
  std::vector<DeviceReservation> rooms;
  std::vector<PutResult> results;
  if (step == "committing") {
    for (DeviceReserveResult& reserved : device.Reserve(items)) {
      OrDie(reserved.status);
      buffer.CopyTo(reserved.reservation->address(), 1000);
      rooms.push_back(*std::move(reserved.reservation));
    }
  }
  std::puts(step.c_str());
  std::fflush(stdout);
  if (step == "committing") {
    results = device.Commit(rooms, nullptr);
  } else {
    std::vector<DevicePutItem> puts;
    for (const ReserveItem& item : items) {
      puts.push_back({.key = item.key,
                      .source = buffer.address(),
                      .size_bytes = item.size_bytes,
                      .overwrite = item.overwrite});
    }
    results = device.Put(puts, nullptr);
  }
  for (const PutResult& result : results) {
    std::printf("%s%s\n", result.outcome == PutOutcome::kRefused ? "refused: " : "",
                result.status.ToString().c_str());
  }
  rooms.clear();
  Stay("let go");
}

int Work(const std::string& socket, const std::string& uuid, const std::string& step) {
  const LocalTransport::Options lane = {.path = socket,
                                        .namespace_name = "default",
                                        .fingerprint = OrDie(Fingerprint::Make({})),
                                        .device = {},
                                        .clock = {}};
  std::shared_ptr<LocalTransport> host;
  if (step == "blocks") host = OrDie(LocalTransport::Connect(lane));
  const auto view = [host](std::string_view key) {
    if (host == nullptr) return GetResult();
    Reached reached;
    return std::move(host->GetNow({&key, 1}, LocalTransport::Copies::kAllowed,
                                  absl::Now() + absl::Seconds(30), &reached)[0]);
  };
  Device device(OrDie(Device::Impl::Open(
      {.lane = lane,
       .host = host,
       .deadline = absl::Seconds(30),
       .view_in_host = [view](std::string_view key, const CallOptions&) { return view(key); }},
      uuid)));
  // Once it has answered, the session is open.
  const std::string_view there = "there";
  OrDie(device.Exists({&there, 1}).status);
  if (step == "open") Stay(step);
  if (step == "traffic") return WorkForever(device, uuid, {});
  if (step == "blocks") return WorkForever(device, uuid, view);
  if (step == "putting" || step == "committing") return CallThatWaits(device, uuid, step);
  if (step == "pinned" || step == "for_stream") {
    DeviceGetResult got = device.Get(there);
    OrDie(got.status);
    if (!got.hit()) return 2;
    // Streams are stuck: its pin stays for longer than it lives.
    if (step == "for_stream") OrDie(got.object->ReleaseAfter(nullptr));
    Stay(step);
  }
  const auto driver = OrDie(cuda::Driver::Load());
  if (step == "dying") {
    // The stream is stuck: its pin and the room of this put are kept for it.
    DeviceGetResult got = device.Get(there);
    OrDie(got.status);
    OrDie(got.object->ReleaseAfter(nullptr));
    DeviceBuffer buffer(driver, OrDie(cuda::FindDevice(*driver, uuid)).ordinal);
    const DevicePutItem item = {
        .key = "late", .source = buffer.address(), .size_bytes = DeviceBuffer::kBytes};
    const PutResult put = device.Put(item, nullptr, {.deadline = absl::Milliseconds(20)});
    if (!absl::IsDeadlineExceeded(put.status)) return 6;
    Stay(step);
  }
  if (step == "copying") {
    DeviceBuffer buffer(driver, OrDie(cuda::FindDevice(*driver, uuid)).ordinal);
    // The copy is under way, and no event tells when it is done: this is an error, and a pin.
    const DeviceGetIntoResult got = device.GetInto(there, buffer.address(), DeviceBuffer::kBytes,
                                                   nullptr, {.deadline = absl::Milliseconds(50)});
    if (!absl::IsResourceExhausted(got.status)) return 5;
    Stay(step);
  }
  const std::string key = "worker" + std::to_string(getpid());
  const ReserveItem item = {.key = key, .size_bytes = kObjectBytes};
  std::vector<DeviceReserveResult> reserved = device.Reserve({&item, 1});
  OrDie(reserved[0].status);
  if (!reserved[0].reservation.has_value()) return 3;
  if (step == "reserved") Stay(step);
  DeviceBuffer buffer(driver, OrDie(cuda::FindDevice(*driver, uuid)).ordinal);
  if (step == "committed") buffer.Write(std::string(kObjectBytes, 'w'));
  buffer.CopyTo(reserved[0].reservation->address(), kObjectBytes);
  if (step == "writing") Stay(step);
  for (const PutResult& put : device.Commit({&*reserved[0].reservation, 1}, nullptr)) {
    OrDie(put.status);
  }
  if (step == "committed") Stay(step);
  return 4;
}

}  // namespace
}  // namespace infercache::gpu

int main(int argc, char** argv) {
  if (argc != 4) return 64;
  return infercache::gpu::Work(argv[1], argv[2], argv[3]);
}

// Ordinary work beside an attack or a kill: one client of a tier that puts, overwrites and gets
// more than the tier has room for, keeps views, and checks every byte that it reads, of what has
// moved down to host memory as well.
//
// Thread-safety: one thread calls Round, any may ask for the counts.

#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infercache/device.h"
#include "tests/gpu/device_buffer.h"
#include "tests/store/pattern.h"

namespace infercache::gpu {

class TierTraffic {
 public:
  static constexpr uint64_t kKeys = 128;
  static constexpr uint64_t kMostBytes = 200'000;  // of one object; half of it on average

  using ViewInHost = std::function<GetResult(std::string_view key)>;

  // `device` and `buffer` outlive it and are nobody else's meanwhile. Each seed is another mix.
  // With `view`, objects are of one size, so that whatever goes makes the room that another needs,
  // and views of what has moved down are kept too.
  TierTraffic(Device& device, DeviceBuffer& buffer, uint64_t seed, ViewInHost view = {})
      : device_(device),
        buffer_(buffer),
        view_in_host_(std::move(view)),
        random_(testing::Mix(seed)) {}

  void Round() {
    Write(Next() % kKeys);
    Read(Next() % kKeys);
    CopyToBuffer(Next() % kKeys);
    if (view_in_host_) View(Next() % kKeys);
    ++rounds_;
  }
  // Whatever it still holds, looked at once more.
  void LetGoOfAll() {
    for (auto& held : held_) LetGo(held);
    for (auto& held : held_in_host_) LetGo(held);
  }

  uint64_t rounds() const { return rounds_; }
  uint64_t hits() const { return hits_; }
  uint64_t host_hits() const { return host_hits_; }  // not of hits()
  uint64_t stored() const { return stored_; }
  uint64_t refused() const { return refused_; }
  uint64_t wrong() const { return wrong_; }

 private:
  using Held = std::optional<std::pair<DeviceObject, uint64_t>>;
  using HeldInHost = std::optional<std::pair<Object, uint64_t>>;

  uint64_t Next() { return random_ = testing::Mix(random_); }
  static std::string KeyOf(uint64_t tag) { return "traffic:" + std::to_string(tag); }
  void Check(const std::string& bytes, uint64_t tag) {
    Check(std::as_bytes(std::span(bytes)), tag);
  }
  void Check(std::span<const std::byte> bytes, uint64_t tag) {
    if (!testing::MatchesTagged(bytes, tag)) ++wrong_;
  }
  void Count(const PutResult& put) { ++(put.outcome == PutOutcome::kRefused ? refused_ : stored_); }

  // In place every other time.
  void Write(uint64_t tag) {
    const uint64_t size = view_in_host_ ? kMostBytes / 2 : Next() % kMostBytes;
    std::vector<std::byte> value(testing::kTaggedHeaderBytes + size);
    testing::FillTagged(value, tag, Next());
    const std::string_view bytes(reinterpret_cast<const char*>(value.data()), value.size());
    const std::string key = KeyOf(tag);
    if (Next() % 2 == 0) {
      buffer_.Write(bytes);
      return Count(device_.Put(
          {.key = key, .source = buffer_.address(), .size_bytes = value.size(), .overwrite = true},
          nullptr));
    }
    const ReserveItem item = {.key = key, .size_bytes = value.size(), .overwrite = true};
    std::vector<DeviceReserveResult> reserved = device_.Reserve({&item, 1});
    if (!reserved[0].reservation) {
      ++refused_;
      return;
    }
    buffer_.WriteTo(reserved[0].reservation->address(), bytes);
    Count(device_.Commit({&*reserved[0].reservation, 1}, nullptr)[0]);
  }
  void Read(uint64_t tag) {
    DeviceGetResult got = device_.Get(KeyOf(tag));
    if (!got.hit()) return;
    ++hits_;
    Check(buffer_.ReadFrom(got.object->address(), got.object->size_bytes()), tag);
    Held& held = held_[Next() % held_.size()];
    LetGo(held);
    held.emplace(*std::move(got.object), tag);
  }
  // The bytes must be what they were, however long they were held.
  void LetGo(Held& held) {
    if (held)
      Check(buffer_.ReadFrom(held->first.address(), held->first.size_bytes()), held->second);
    held.reset();
  }
  void LetGo(HeldInHost& held) {
    if (held) Check(held->first.bytes(), held->second);
    held.reset();
  }
  void View(uint64_t tag) {
    GetResult got = view_in_host_(KeyOf(tag));
    if (!got.hit()) return;
    ++host_hits_;
    Check(got.object->bytes(), tag);
    HeldInHost& held = held_in_host_[Next() % held_in_host_.size()];
    LetGo(held);
    held.emplace(*std::move(got.object), tag);
  }
  // From wherever it is.
  void CopyToBuffer(uint64_t tag) {
    const DeviceGetIntoResult got =
        device_.GetInto(KeyOf(tag), buffer_.address(), DeviceBuffer::kBytes, nullptr);
    if (!got.hit) return;
    ++(got.from_host ? host_hits_ : hits_);
    Check(buffer_.Read(got.size_bytes), tag);
  }

  Device& device_;
  DeviceBuffer& buffer_;
  const ViewInHost view_in_host_;
  uint64_t random_;
  std::array<Held, 4> held_;
  std::array<HeldInHost, 4> held_in_host_;
  std::atomic<uint64_t> rounds_{0}, hits_{0}, host_hits_{0}, stored_{0}, refused_{0}, wrong_{0};
};

}  // namespace infercache::gpu

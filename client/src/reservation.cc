#include <utility>

#include "infercache/client.h"

namespace infercache {

Reservation::Reservation(std::span<std::byte> bytes, std::unique_ptr<Room> room)
    : bytes_(bytes), room_(std::move(room)) {}
Reservation::Reservation(Reservation&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), room_(std::move(other.room_)) {}
Reservation& Reservation::operator=(Reservation&& other) noexcept {
  room_ = std::move(other.room_);
  bytes_ = std::exchange(other.bytes_, {});
  return *this;
}
Reservation::~Reservation() = default;

std::unique_ptr<Reservation::Room> Reservation::Release() {
  bytes_ = {};
  return std::move(room_);
}

}  // namespace infercache

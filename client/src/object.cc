#include <utility>

#include "infercache/client.h"

namespace infercache {

Object::Object(std::span<const std::byte> bytes, std::vector<PartSpec> parts, ObjectInfo info,
               std::unique_ptr<Storage> storage)
    : bytes_(bytes),
      parts_(std::move(parts)),
      info_(std::move(info)),
      storage_(std::move(storage)) {}
Object::Object(Object&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})),
      parts_(std::move(other.parts_)),
      info_(std::move(other.info_)),
      storage_(std::move(other.storage_)) {}
Object& Object::operator=(Object&& other) noexcept {
  storage_ = std::move(other.storage_);
  bytes_ = std::exchange(other.bytes_, {});
  parts_ = std::move(other.parts_);
  info_ = std::move(other.info_);
  return *this;
}
Object::~Object() = default;

std::span<const std::byte> Object::part(size_t i) const {
  size_t offset = 0;
  for (size_t k = 0; k < i; ++k) offset += parts_[k].size_bytes;
  return bytes_.subspan(offset, parts_[i].size_bytes);
}

std::unique_ptr<Object::Storage> Object::Release() {
  bytes_ = {};
  return std::move(storage_);
}

}  // namespace infercache

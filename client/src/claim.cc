#include "infercache/claim.h"

#include <utility>

namespace infercache {

Claim::Claim(std::string key, std::unique_ptr<Right> right)
    : key_(std::move(key)), right_(std::move(right)) {}
Claim::Claim(Claim&& other) noexcept = default;
Claim& Claim::operator=(Claim&& other) noexcept = default;
Claim::~Claim() = default;

void Claim::Fulfilled() {
  if (right_ == nullptr) return;
  right_->Fulfilled();
  right_ = nullptr;
}

}  // namespace infercache

// What a namespace knows of its tiers in the memory of GPUs.

#include "absl/strings/str_cat.h"
#include "server/store/namespace.h"

namespace infercache::store {

std::vector<DeviceTier> Namespace::device_tiers() const {
  MutexLock lock(&tiers_mu_);
  return tiers_;
}

absl::StatusOr<std::shared_ptr<Namespace>> Namespace::FindDeviceTier(
    std::string_view device) const {
  MutexLock lock(&tiers_mu_);
  for (const DeviceTier& tier : tiers_) {
    // Which one "auto" would have been, nobody knows.
    const bool any = tier.objects == nullptr && tier.device == "auto";
    if (tier.device != device && !any) continue;
    if (tier.objects != nullptr) return tier.objects;
    return absl::UnimplementedError(absl::StrCat("namespace ", spec().name, " has its tier on ",
                                                 tier.device, " off: ", tier.why_off.message()));
  }
  return absl::NotFoundError(absl::StrCat("namespace ", spec().name, " has no tier on ",
                                          std::string(device.substr(0, 64))));
}

void Namespace::SetDeviceTier(DeviceTier tier) {
  MutexLock lock(&tiers_mu_);
  for (DeviceTier& known : tiers_) {
    if (known.device != tier.device) continue;
    known = std::move(tier);
    return;
  }
  tiers_.push_back(std::move(tier));
}

std::vector<std::shared_ptr<Namespace>> Namespace::Tiers() const {
  std::vector<std::shared_ptr<Namespace>> there;
  MutexLock lock(&tiers_mu_);
  for (const DeviceTier& tier : tiers_) {
    if (tier.objects != nullptr) there.push_back(tier.objects);
  }
  return there;
}

}  // namespace infercache::store

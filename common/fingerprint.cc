#include "common/fingerprint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache {
namespace {

Hash128 HashEntries(const FingerprintEntries& entries) {
  std::string canonical;  // length-prefixed, so that no two lists of pairs share a text
  for (const auto& [key, value] : entries) {
    absl::StrAppend(&canonical, key.size(), ":", key, "=", value.size(), ":", value, ";");
  }
  return HashBytes(canonical);
}

}  // namespace

Fingerprint::Fingerprint() : hash_(HashEntries({})) {}

absl::StatusOr<Fingerprint> Fingerprint::Make(FingerprintEntries entries) {
  if (entries.size() > kMaxFingerprintEntries) {
    return absl::InvalidArgumentError(absl::StrCat(
        "fingerprint has ", entries.size(), " entries; the limit is ", kMaxFingerprintEntries));
  }
  std::sort(entries.begin(), entries.end());
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [key, value] = entries[i];
    if (key.empty())
      return absl::InvalidArgumentError("fingerprint has an entry with an empty key");
    if (key.size() > kMaxFingerprintKeyBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "fingerprint key of ", key.size(), " bytes; the limit is ", kMaxFingerprintKeyBytes));
    }
    if (value.size() > kMaxFingerprintValueBytes) {
      return absl::InvalidArgumentError(absl::StrCat("fingerprint value of '", key, "' has ",
                                                     value.size(), " bytes; the limit is ",
                                                     kMaxFingerprintValueBytes));
    }
    if (i > 0 && entries[i - 1].first == key) {
      return absl::InvalidArgumentError(absl::StrCat("fingerprint names '", key, "' twice"));
    }
  }
  Fingerprint result;
  result.hash_ = HashEntries(entries);
  result.entries_ = std::move(entries);
  return result;
}

absl::Status Fingerprint::Satisfies(const FingerprintEntries& required) const {
  for (const auto& [key, value] : required) {
    const auto it =
        std::lower_bound(entries_.begin(), entries_.end(), key,
                         [](const auto& entry, const std::string& k) { return entry.first < k; });
    if (it == entries_.end() || it->first != key) {
      return absl::FailedPreconditionError(absl::StrCat("the namespace demands fingerprint entry ",
                                                        key, "=", value,
                                                        ", which the client does not state"));
    }
    if (it->second != value) {
      return absl::FailedPreconditionError(absl::StrCat("the namespace demands fingerprint entry ",
                                                        key, "=", value, ", the client states ",
                                                        key, "=", it->second));
    }
  }
  return absl::OkStatus();
}

}  // namespace infercache

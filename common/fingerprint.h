// Which bytes a key may stand for: checks and hashes the key=value pairs that a client sends.

#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/hash.h"
#include "infercache/types.h"

namespace infercache {

// Entries sorted by key, with the hash that is part of every stored key. Immutable value type.
class Fingerprint {
 public:
  // The fingerprint without entries: what a client gets that states none.
  Fingerprint();

  // Sorts the entries. INVALID_ARGUMENT names the entry: an empty, duplicate or oversized key, an
  // oversized value, or more than kMaxFingerprintEntries of them.
  static absl::StatusOr<Fingerprint> Make(FingerprintEntries entries);

  const FingerprintEntries& entries() const { return entries_; }
  const Hash128& hash() const { return hash_; }

  // OK if every entry of `required` stands here with the same value; else FAILED_PRECONDITION that
  // names the first entry that is missing or different.
  absl::Status Satisfies(const FingerprintEntries& required) const;

 private:
  FingerprintEntries entries_;
  Hash128 hash_;
};

}  // namespace infercache

// The option table: every field of the configuration with its key, kind, bounds and sentence.
// Flags, environment names, the YAML reader, --help, --print-config and the reference page all come
// from it.
//
// A key gives all three names: `grpc.max_pinned_bytes` is --grpc-max-pinned-bytes and
// INFERCACHE_GRPC_MAX_PINNED_BYTES. What is inside `namespaces:` and `auth.credentials:` exists
// only in the file.

#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "server/config.h"

namespace infercache::server {

enum class ValueKind {
  kText,
  kPath,
  kAddress,   // HOST:PORT; may be empty
  kChoice,    // one of `choices`
  kSize,      // bytes
  kDuration,  // ms
  kCount,
  kBool,
  kFileMode,
  kTextList,  // YAML: a list of scalars
  kTextMap,   // YAML: a map of scalars
};

// T is the struct that holds the value.
template <typename T>
struct Field {
  std::string_view key;
  ValueKind kind;
  std::variant<std::string T::*, uint64_t T::*, bool T::*, std::vector<std::string> T::*,
               FingerprintEntries T::*>
      member;
  std::string_view help;
  std::string_view group = "";  // heading in --help and in the reference
  uint64_t min = 0;             // of numbers, inclusive
  uint64_t max = std::numeric_limits<int64_t>::max();
  std::string_view choices = "";  // "a|b|c"
  bool secret = false;
};

std::span<const Field<Config>> ConfigFields();
std::span<const Field<NamespaceConfig>> NamespaceFields();
std::span<const Field<CredentialConfig>> CredentialFields();
inline constexpr std::string_view kNamespacesKey = "namespaces";
inline constexpr std::string_view kCredentialsKey = "auth.credentials";

// "grpc.max_pinned_bytes" -> "--grpc-max-pinned-bytes", "INFERCACHE_GRPC_MAX_PINNED_BYTES".
std::string FlagName(std::string_view key);
std::string EnvironmentName(std::string_view key);
// "SIZE", "text|json", ...
std::string KindName(ValueKind kind, std::string_view choices);

// Parses one scalar into its member. INVALID_ARGUMENT: not of this kind, or out of bounds.
// REQUIRES: the kind is neither kTextList nor kTextMap.
template <typename T>
absl::Status SetValue(const Field<T>& field, std::string_view text, T& target);
// The text that SetValue reads as the member's value; lists and maps in YAML's flow style.
template <typename T>
std::string ValueText(const Field<T>& field, const T& source);

}  // namespace infercache::server

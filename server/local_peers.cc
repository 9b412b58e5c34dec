#include "server/local_peers.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>

#include "absl/strings/ascii.h"
#include "common/status_macros.h"
#include "server/config_values.h"
#include "server/text.h"

namespace infercache::server {
namespace {

constexpr size_t kFirstBufferBytes = 1 << 12;
// A group's members come with it.
constexpr size_t kMostBufferBytes = 1 << 24;

// The entry that `get` (getpwnam_r or getgrnam_r) finds under `name`, as `number` takes it out.
template <typename Entry, typename Get, typename Number>
absl::StatusOr<uint32_t> LookUp(const std::string& name, std::string_view what, Get get,
                                Number number) {
  for (size_t size = kFirstBufferBytes; size <= kMostBufferBytes; size *= 4) {
    std::string buffer(size, '\0');
    Entry entry;
    Entry* found = nullptr;
    const int error = get(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (found != nullptr) return number(entry);
    if (error == ERANGE) continue;
    // What a name that nobody knows is told as, beside success, differs between databases.
    const bool unknown = error == 0 || error == ENOENT || error == ESRCH || error == EBADF ||
                         error == EPERM || error == EINVAL;
    if (unknown) {
      return absl::InvalidArgumentError(
          Cat("there is no ", what, " \"", Escaped(name), "\" on this machine"));
    }
    return absl::UnavailableError(
        Cat(what, " \"", Escaped(name), "\" could not be looked up: ", strerror(error)));
  }
  return absl::UnavailableError(Cat(what, " \"", Escaped(name), "\" has too many members"));
}

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return absl::ascii_isdigit(c); });
}

absl::StatusOr<uint32_t> ParseId(std::string_view text) {
  // The largest number stands for "no id" in system calls.
  constexpr uint64_t kLargestId = std::numeric_limits<uint32_t>::max() - 1;
  const auto id = ParseCount(text);
  if (id.ok() && *id <= kLargestId) return static_cast<uint32_t>(*id);
  return absl::InvalidArgumentError(Cat("\"", text, "\" is no number of a user or group"));
}

absl::StatusOr<uint32_t> UserId(const std::string& text) {
  if (IsNumber(text)) return ParseId(text);
  return LookUp<passwd>(text, "user", getpwnam_r, [](const passwd& p) { return p.pw_uid; });
}

absl::StatusOr<uint32_t> GroupId(const std::string& text) {
  if (IsNumber(text)) return ParseId(text);
  return LookUp<group>(text, "group", getgrnam_r, [](const group& g) { return g.gr_gid; });
}

}  // namespace

absl::StatusOr<LocalPeers> ResolvePeers(const std::vector<std::string>& texts) {
  LocalPeers peers{.everyone = false};
  for (const std::string& text : texts) {
    const bool is_group = text.starts_with('@');
    if (text.empty() || text == "@") {
      return absl::InvalidArgumentError(
          Cat("\"", text, "\" names nobody: expected \"*\", a user or \"@group\""));
    }
    if (text == "*") {
      peers.everyone = true;
    } else if (is_group) {
      ASSIGN_OR_RETURN(peers.groups.emplace_back(), GroupId(text.substr(1)));
    } else {
      ASSIGN_OR_RETURN(peers.users.emplace_back(), UserId(text));
    }
  }
  return peers;
}

}  // namespace infercache::server

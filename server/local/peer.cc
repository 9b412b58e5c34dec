#include "server/local/peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83  // Linux 6.16
#endif

namespace infercache::local {
namespace {

constexpr size_t kFirstGroups = 64;

uint32_t ReadId(const char* path, uint32_t otherwise) {
  std::ifstream file(path);
  uint32_t id = 0;
  return file >> id ? id : otherwise;
}

std::vector<uint32_t> PeerGroups(int socket) {
  std::vector<gid_t> groups(kFirstGroups);
  auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int result = getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  if (result != 0 && errno == ERANGE) {
    groups.resize(bytes / sizeof(gid_t));
    result = getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  }
  groups.resize(result == 0 ? bytes / sizeof(gid_t) : 0);
  return {groups.begin(), groups.end()};
}

// What it means that a witness of a live process could not be had.
absl::Status NoWitness(const char* call, int error) {
  switch (error) {
    case ESRCH:
    case EINVAL:  // SO_PEERPIDFD's word for it in Linux 6.5 and later
      return absl::NotFoundError("the process that connected is gone");
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(absl::StrCat(call, ": ", strerror(error)));
    default:
      return absl::UnavailableError(absl::StrCat(call, ": ", strerror(error)));
  }
}

absl::StatusOr<UniqueFd> OpenProcess(int socket, int32_t pid) {
  int fd = -1;
  socklen_t bytes = sizeof fd;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) == 0) return UniqueFd(fd);
  if (errno != ENOPROTOOPT) return NoWitness("SO_PEERPIDFD", errno);
  // Older kernels: by number, which is right as long as the process lives. A number that was
  // reused before this call is the one case in which the wrong process is watched; the end of the
  // connection is seen all the same.
  if (pid <= 0) return UniqueFd();
  fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd >= 0) return UniqueFd(fd);
  // Older still, or a sandbox that does not let us.
  if (errno == ENOSYS || errno == EPERM) return UniqueFd();
  return NoWitness("pidfd_open", errno);
}

absl::StatusOr<ucred> Credentials(int socket) {
  ucred credentials = {};
  socklen_t bytes = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) == 0) return credentials;
  return absl::UnavailableError(absl::StrCat("SO_PEERCRED: ", strerror(errno)));
}

}  // namespace

OverflowIds ReadOverflowIds() {
  OverflowIds ids;
  ids.user = ReadId("/proc/sys/kernel/overflowuid", ids.user);
  ids.group = ReadId("/proc/sys/kernel/overflowgid", ids.group);
  return ids;
}

absl::StatusOr<Peer> IdentifyPeer(int socket) {
  ASSIGN_OR_RETURN(const ucred credentials, Credentials(socket));
  Peer peer;
  peer.user = credentials.uid;
  peer.group = credentials.gid;
  peer.pid = credentials.pid;
  peer.groups = PeerGroups(socket);
  auto process = OpenProcess(socket, peer.pid);
  if (!process.ok()) return std::move(process).status();
  peer.process = *std::move(process);
  return peer;
}

uint32_t PeerUser(int socket) {
  const auto credentials = Credentials(socket);
  return credentials.ok() ? credentials->uid : OverflowIds().user;
}

void PermitDescriptors(int socket, bool permit) {
  const int value = permit ? 1 : 0;
  (void)setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &value, sizeof value);
}

bool Permits(const store::LocalAccess& access, const Peer& peer, const OverflowIds& overflow) {
  if (access.everyone) return true;
  const auto has = [](const std::vector<uint32_t>& list, uint32_t id) {
    return std::find(list.begin(), list.end(), id) != list.end();
  };
  if (peer.user != overflow.user && has(access.users, peer.user)) return true;
  const auto is_member = [&](uint32_t group) {
    return group != overflow.group && has(access.groups, group);
  };
  return is_member(peer.group) || std::any_of(peer.groups.begin(), peer.groups.end(), is_member);
}

bool IsGone(const UniqueFd& process) {
  pollfd item = {.fd = process.get(), .events = POLLIN, .revents = 0};
  return poll(&item, 1, 0) > 0;
}

}  // namespace infercache::local

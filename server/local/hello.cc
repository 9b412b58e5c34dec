#include "server/local/hello.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/duplicate_fd.h"
#include "common/limits.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"
#include "common/status_macros.h"
#include "convert/types.h"

namespace infercache::local {
namespace {

constexpr char kDefaultNamespace[] = "default";

absl::Status CheckHello(const v1::Hello& hello) {
  if (hello.version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the client speaks version ", hello.version(),
                                                      " of the local protocol, the daemon version ",
                                                      kProtocolVersion));
  }
  if (hello.client().size() > kMaxClientNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("client: ", hello.client().size(),
                                                   " bytes; the limit is ", kMaxClientNameBytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<store::Namespace>> FindNamespace(const Host& host,
                                                                const std::string& name) {
  if (name.size() > kMaxNamespaceNameBytes) {
    return absl::NotFoundError(absl::StrCat("a namespace's name has at most ",
                                            kMaxNamespaceNameBytes, " bytes, this one has ",
                                            name.size()));
  }
  return host.store.FindNamespace(name.empty() ? kDefaultNamespace : name);
}

// A client that gets a GPU's memory can write it, whatever it asked for: so it has to have the
// right.
absl::StatusOr<std::shared_ptr<store::Namespace>> FindTier(const Host& host,
                                                           const store::Namespace& ns,
                                                           const Peer& peer,
                                                           const std::string& device) {
  const store::NamespaceSpec& spec = ns.spec();
  if (!spec.writable_by_clients) {
    return absl::PermissionDeniedError(
        absl::StrCat("no client may write to the memory of namespace ", spec.name,
                     ", and a GPU's is not shared for reading alone: its local_writers decides"));
  }
  if (!Permits(spec.local_writers, peer, host.overflow_ids)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "uid ", peer.user, ", gid ", peer.group, " may not write to namespace ", spec.name,
        ", and a GPU's memory is not shared for reading alone: its "
        "local_writers decides"));
  }
  return ns.FindDeviceTier(device);
}

absl::StatusOr<PutAccess> DecideAccess(const Host& host, const store::NamespaceSpec& spec,
                                       const Peer& peer, bool read_only) {
  if (!Permits(spec.local_users, peer, host.overflow_ids)) {
    return absl::PermissionDeniedError(absl::StrCat("uid ", peer.user, ", gid ", peer.group,
                                                    " may not use namespace ", spec.name,
                                                    ": its local_users decides"));
  }
  if (read_only || !Permits(spec.local_writers, peer, host.overflow_ids)) {
    return v1::Welcome::PUT_ACCESS_NONE;
  }
  return spec.writable_by_clients ? v1::Welcome::PUT_ACCESS_IN_PLACE : v1::Welcome::PUT_ACCESS_SEND;
}

void FillWelcome(const Host& host, const store::Namespace& ns, const store::ClientPage& page,
                 v1::Welcome* welcome) {
  welcome->set_version(kProtocolVersion);
  welcome->set_daemon_version(host.options.daemon_version);
  welcome->set_index_bytes(ns.index_memory().size());
  welcome->set_index_layout(shm::kIndexLayoutVersion);
  welcome->set_page_bytes(page.memory().size());
  welcome->set_page_layout(shm::kSessionLayoutVersion);
  welcome->set_slot_capacity(page.slot_capacity());
  welcome->set_slot_limit(page.slot_limit());
  welcome->set_chunk_count(ns.chunk_count());
  welcome->set_chunk_bytes(ns.chunk_bytes());
  welcome->set_reservation_timeout_ms(
      static_cast<uint64_t>(absl::ToInt64Milliseconds(host.options.reservation_timeout)));
  welcome->set_checksums(ns.spec().checksums);
  if (ns.spec().device.empty()) welcome->set_page_kind(PageKindName(ns.page_kind()));
  welcome->set_device(ns.spec().device);
  welcome->set_lending(ns.spec().device.empty());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> OpenSession(Host& host, const v1::Hello& hello,
                                                     const Peer& peer, uint64_t id,
                                                     v1::Welcome* welcome,
                                                     std::vector<UniqueFd>* descriptors) {
  RETURN_IF_ERROR(CheckHello(hello));
  RETURN_IF_ERROR(host.CheckTakesWork());
  ASSIGN_OR_RETURN(std::shared_ptr<store::Namespace> ns,
                   FindNamespace(host, hello.scope().namespace_()));
  ASSIGN_OR_RETURN(const PutAccess access, DecideAccess(host, ns->spec(), peer, hello.read_only()));
  if (!hello.device().empty()) {
    ASSIGN_OR_RETURN(ns, FindTier(host, *ns, peer, hello.device()));
  }
  ASSIGN_OR_RETURN(Fingerprint fingerprint,
                   Fingerprint::Make(FromProto(hello.scope().fingerprint())));
  RETURN_IF_ERROR(fingerprint.Satisfies(ns->spec().required_fingerprint));
  ASSIGN_OR_RETURN(std::shared_ptr<store::ClientPage> page,
                   store::ClientPage::Create(host.options.pin_slots));
  ASSIGN_OR_RETURN(UniqueFd index_fd, Duplicate(ns->index_fd()));
  ASSIGN_OR_RETURN(UniqueFd page_fd, Duplicate(page->fd()));
  descriptors->push_back(std::move(index_fd));
  descriptors->push_back(std::move(page_fd));
  FillWelcome(host, *ns, *page, welcome);
  auto session = std::make_unique<Session>(host, peer.user, std::move(ns), std::move(fingerprint),
                                           std::move(page), access);
  welcome->set_session(id);
  welcome->set_put_access(access);
  welcome->set_pin_budget_bytes(session->pin_budget_bytes());
  return session;
}

}  // namespace infercache::local

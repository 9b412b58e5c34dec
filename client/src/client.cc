#include "infercache/client.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/src/channel.h"
#include "client/src/client_impl.h"
#include "client/src/device_impl.h"
#include "client/src/remote_transport.h"
#include "common/fingerprint.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"

namespace infercache {
namespace {

using Copies = LocalTransport::Copies;

absl::Status CheckNamespaceName(const std::string& name) {
  if (name.empty() || name.size() > kMaxNamespaceNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "namespace_name has ", name.size(), " bytes; the limit is 1..", kMaxNamespaceNameBytes));
  }
  for (const unsigned char c : name) {
    if (absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' || c == '-') {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_name has a byte other than a-z 0-9 . _ - (code ", int{c}, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ClientOptions& options) {
  RETURN_IF_ERROR(CheckNamespaceName(options.namespace_name));
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("deadline must be positive");
  }
  if (options.max_unary_bytes == 0 || options.max_unary_bytes > (uint64_t{1} << 30)) {
    return absl::InvalidArgumentError(absl::StrCat("max_unary_bytes is ", options.max_unary_bytes,
                                                   "; the limit is 1 byte..1 GiB"));
  }
  if (options.breaker_failures < 0 || options.breaker_probe_interval < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "breaker_failures and breaker_probe_interval must not be negative");
  }
  return absl::OkStatus();
}

}  // namespace

namespace {

// Puts a result into the member of a Completion that `member` names, and the completion into the
// queue.
template <typename Result, typename Member>
Deliver<Result> Into(CompletionQueue& queue, RequestId id, Member Completion::*member) {
  return [&queue, id, member](Result result) {
    Completion completion;
    completion.id = id;
    completion.*member = std::move(result);
    queue.Push(std::move(completion));
  };
}

// What the same-host lane is opened with. INVALID_ARGUMENT: TLS, of which it has none.
absl::StatusOr<LocalTransport::Options> LaneOptions(const ClientOptions& options,
                                                    const Endpoint& endpoint,
                                                    Fingerprint fingerprint) {
  if (options.tls.has_value()) {
    return absl::InvalidArgumentError(
        "tls is for gRPC; the local lane needs none (grpc+unix:PATH is gRPC over the same socket)");
  }
  return LocalTransport::Options{.path = endpoint.socket_path,
                                 .namespace_name = options.namespace_name,
                                 .fingerprint = std::move(fingerprint),
                                 .clock = options.clock};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const Fingerprint fingerprint, Fingerprint::Make(options.fingerprint));
  ASSIGN_OR_RETURN(Endpoint endpoint, ResolveEndpoint(options.endpoint));
  std::unique_ptr<Transport> transport;
  LocalTransport* local = nullptr;
  LocalTransport::Options lane;
  if (endpoint.lane == Lane::kLocal) {
    ASSIGN_OR_RETURN(lane, LaneOptions(options, endpoint, fingerprint));
    ASSIGN_OR_RETURN(auto made, LocalTransport::Connect(lane));
    local = made.get();
    transport = std::move(made);
  } else {
    ASSIGN_OR_RETURN(RemoteChannel channel, MakeChannel(options));
    transport = std::make_unique<RemoteTransport>(
        std::move(channel), ToScope(options.namespace_name, fingerprint.entries()),
        options.max_unary_bytes);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<CompletionQueue> completions, CompletionQueue::Create());
  auto impl = std::make_shared<Impl>(options, std::move(endpoint.text), std::move(completions),
                                     std::move(transport), local);
  impl->lane_options = std::move(lane);
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Client::~Client() {
  // Its locks may be held, and its threads are the parent's.
  if (impl_->inherited()) (void)new std::shared_ptr<Impl>(std::move(impl_));
}

Lane Client::lane() const { return impl_->lane(); }

absl::StatusOr<std::unique_ptr<Device>> Client::OpenDevice(std::string_view gpu) {
  return OpenDevice(gpu, DeviceOptions());
}

absl::StatusOr<std::unique_ptr<Device>> Client::OpenDevice(std::string_view gpu,
                                                           const DeviceOptions& options) {
  if (impl_->inherited()) {
    return absl::UnavailableError(
        "the client belongs to the parent process; make one in this process");
  }
  if (lane() != Lane::kLocal) {
    return absl::UnimplementedError(
        "the memory of a GPU is shared on the daemon's own host: connect to unix:PATH");
  }
  // Another one of the same connection, so that this one may be destroyed before the device.
  const std::shared_ptr<Client> same(new Client(impl_));
  ASSIGN_OR_RETURN(
      auto impl, Device::Impl::Open({.lane = impl_->lane_options,
                                     .host = std::shared_ptr<LocalTransport>(impl_, impl_->local()),
                                     .deadline = impl_->deadline(),
                                     .registers_host_memory = options.register_host_memory,
                                     .view_in_host =
                                         [same](std::string_view key, const CallOptions& call) {
                                           return same->Get(key, call);
                                         }},
                                    gpu));
  return std::make_unique<Device>(std::move(impl));
}

// A template, because Impl is Client's own.
template <typename Impl>
static KeysResult KeysNow(Impl& impl, KeysVerb verb, std::span<const std::string_view> keys,
                          const CallOptions& call) {
  KeysResult result;
  if (LocalTransport* local = impl.local();
      local != nullptr && local->TryKeys(verb, keys, &result)) {
    return result;
  }
  return impl.template Now<KeysResult>(
      keys.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.KeysNow(verb, keys, deadline, reached);
      },
      [&](auto deliver) { impl.Keys(verb, keys, call, std::move(deliver)); });
}

RequestId Client::SubmitGet(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Get(keys, call, Into<std::vector<GetResult>>(impl_->completions(), id, &Completion::get));
  return id;
}

RequestId Client::SubmitGetInto(std::span<const std::string_view> keys,
                                std::span<const std::span<std::byte>> destinations,
                                const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->GetInto(keys, destinations, call,
                 Into<std::vector<GetIntoResult>>(impl_->completions(), id, &Completion::get_into));
  return id;
}

RequestId Client::SubmitPut(std::span<const PutItem> items, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Put(items, call, Into<std::vector<PutResult>>(impl_->completions(), id, &Completion::put));
  return id;
}

RequestId Client::SubmitReserve(std::span<const ReserveItem> items, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Reserve(items, call,
                 Into<std::vector<ReserveResult>>(impl_->completions(), id, &Completion::reserve));
  return id;
}

RequestId Client::SubmitCommit(std::span<Reservation> reservations, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Commit(reservations, call,
                Into<std::vector<PutResult>>(impl_->completions(), id, &Completion::commit));
  return id;
}

RequestId Client::SubmitMatch(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Match(keys, call, Into<MatchResult>(impl_->completions(), id, &Completion::match));
  return id;
}

RequestId Client::SubmitExists(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kExists, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

RequestId Client::SubmitDelete(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kDelete, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

RequestId Client::SubmitTouch(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kTouch, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

int Client::event_fd() const { return impl_->completions().event_fd(); }

std::vector<Completion> Client::Drain() { return impl_->completions().Drain(); }

GetResult Client::Get(std::string_view key, const CallOptions& call) {
  GetResult result;
  if (LocalTransport* local = impl_->local();
      local != nullptr && local->TryGet(key, Copies::kAllowed, &result)) {
    return result;
  }
  return std::move(Get(std::span(&key, 1), call).front());
}

std::vector<GetResult> Client::Get(std::span<const std::string_view> keys,
                                   const CallOptions& call) {
  std::vector<GetResult> results;
  if (LocalTransport* local = impl_->local();
      local != nullptr && local->TryGet(keys, Copies::kAllowed, &results)) {
    return results;
  }
  return impl_->Now<std::vector<GetResult>>(
      keys.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.GetNow(keys, Copies::kAllowed, deadline, reached);
      },
      [&](auto deliver) { impl_->Get(keys, call, std::move(deliver)); });
}

GetResult Client::View(std::string_view key, const CallOptions& call) {
  GetResult result;
  if (LocalTransport* local = impl_->local();
      local != nullptr && local->TryGet(key, Copies::kRefused, &result)) {
    return result;
  }
  return std::move(View(std::span(&key, 1), call).front());
}

std::vector<GetResult> Client::View(std::span<const std::string_view> keys,
                                    const CallOptions& call) {
  std::vector<GetResult> results;
  if (impl_->lane() == Lane::kRemote) {
    return Failed<std::vector<GetResult>>(
        absl::UnimplementedError("there are no views over gRPC: use Get, or the local lane"),
        keys.size());
  }
  if (LocalTransport* local = impl_->local();
      local != nullptr && local->TryGet(keys, Copies::kRefused, &results)) {
    return results;
  }
  return impl_->Now<std::vector<GetResult>>(
      keys.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.GetNow(keys, Copies::kRefused, deadline, reached);
      },
      [&](auto deliver) { impl_->Get(keys, call, std::move(deliver)); });
}

GetIntoResult Client::GetInto(std::string_view key, std::span<std::byte> destination,
                              const CallOptions& call) {
  GetIntoResult result;
  if (LocalTransport* local = impl_->local();
      local != nullptr && local->TryGetInto(key, destination, &result)) {
    return result;
  }
  return GetInto(std::span(&key, 1), std::span(&destination, 1), call).front();
}

std::vector<GetIntoResult> Client::GetInto(std::span<const std::string_view> keys,
                                           std::span<const std::span<std::byte>> destinations,
                                           const CallOptions& call) {
  std::vector<GetIntoResult> results;
  LocalTransport* const local = impl_->local();
  if (local != nullptr && keys.size() == destinations.size()) {
    if (local->TryGetInto(keys, destinations, &results)) return results;
    return impl_->Now<std::vector<GetIntoResult>>(
        keys.size(), call,
        [&](LocalTransport& transport, absl::Time deadline, Reached* reached) {
          return transport.GetIntoNow(keys, destinations, deadline, reached);
        },
        [&](auto deliver) { impl_->GetInto(keys, destinations, call, std::move(deliver)); });
  }
  return impl_->Wait<std::vector<GetIntoResult>>(
      [&](auto deliver) { impl_->GetInto(keys, destinations, call, std::move(deliver)); });
}

PutResult Client::Put(const PutItem& item, const CallOptions& call) {
  return Put(std::span(&item, 1), call).front();
}

std::vector<PutResult> Client::Put(std::span<const PutItem> items, const CallOptions& call) {
  return impl_->Now<std::vector<PutResult>>(
      items.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.PutNow(items, deadline, reached);
      },
      [&](auto deliver) { impl_->Put(items, call, std::move(deliver)); });
}

std::vector<ReserveResult> Client::Reserve(std::span<const ReserveItem> items,
                                           const CallOptions& call) {
  return impl_->Now<std::vector<ReserveResult>>(
      items.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.ReserveNow(items, deadline, reached);
      },
      [&](auto deliver) { impl_->Reserve(items, call, std::move(deliver)); });
}

std::vector<PutResult> Client::Commit(std::span<Reservation> reservations,
                                      const CallOptions& call) {
  return impl_->Now<std::vector<PutResult>>(
      reservations.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.CommitNow(reservations, deadline, reached);
      },
      [&](auto deliver) { impl_->Commit(reservations, call, std::move(deliver)); });
}

MatchResult Client::Match(std::span<const std::string_view> keys, const CallOptions& call) {
  MatchResult result;
  if (LocalTransport* local = impl_->local(); local != nullptr && local->TryMatch(keys, &result)) {
    return result;
  }
  return impl_->Now<MatchResult>(
      keys.size(), call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.MatchNow(keys, deadline, reached);
      },
      [&](auto deliver) { impl_->Match(keys, call, std::move(deliver)); });
}

KeysResult Client::Exists(std::span<const std::string_view> keys, const CallOptions& call) {
  return KeysNow(*impl_, KeysVerb::kExists, keys, call);
}

KeysResult Client::Delete(std::span<const std::string_view> keys, const CallOptions& call) {
  return KeysNow(*impl_, KeysVerb::kDelete, keys, call);
}

KeysResult Client::Touch(std::span<const std::string_view> keys, const CallOptions& call) {
  return KeysNow(*impl_, KeysVerb::kTouch, keys, call);
}

ListResult Client::List(std::string_view key_prefix, uint32_t page_size,
                        std::string_view page_token, const CallOptions& call) {
  return impl_->Now<ListResult>(
      1, call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.ListNow(key_prefix, page_size, page_token, deadline, reached);
      },
      [&](auto deliver) {
        impl_->List(key_prefix, page_size, page_token, call, std::move(deliver));
      });
}

absl::Status Client::Ping(const CallOptions& call) {
  return impl_->Now<absl::Status>(
      1, call,
      [&](LocalTransport& local, absl::Time deadline, Reached* reached) {
        return local.PingNow(deadline, reached);
      },
      [&](auto deliver) { impl_->Ping(call, std::move(deliver)); },
      /*heed_breaker=*/false);
}

}  // namespace infercache

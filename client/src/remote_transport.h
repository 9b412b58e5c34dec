// The transport for any host: infercache.v1.Cache over gRPC.

#pragma once

#include "client/src/remote_backend.h"
#include "client/src/transport.h"

namespace infercache {

class RemoteTransport final : public Transport {
 public:
  RemoteTransport(RemoteChannel channel, v1::Scope scope, uint64_t max_unary_bytes);

  void Get(std::span<const std::string_view> keys, absl::Time deadline,
           Done<std::vector<GetResult>> done) override;
  void GetInto(std::span<const std::string_view> keys,
               std::span<const std::span<std::byte>> destinations, absl::Time deadline,
               Done<std::vector<GetIntoResult>> done) override;
  void Put(std::span<const PutItem> items, absl::Time deadline,
           Done<std::vector<PutResult>> done) override;
  void Reserve(std::span<const ReserveItem> items, absl::Time deadline,
               Done<std::vector<ReserveResult>> done) override;
  void Commit(std::span<Reservation> reservations, absl::Time deadline,
              Done<std::vector<PutResult>> done) override;
  void GetOrReserve(std::span<const std::string_view> keys, absl::Time deadline,
                    absl::Duration claim_time, OnWords on_words) override;
  void Match(std::span<const std::string_view> keys, absl::Time deadline,
             Done<MatchResult> done) override;
  void Keys(KeysVerb verb, std::span<const std::string_view> keys, absl::Time deadline,
            Done<KeysResult> done) override;
  void List(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
            absl::Time deadline, Done<ListResult> done) override;
  void Ping(bool wait_for_daemon, absl::Time deadline, Done<absl::Status> done) override;

 private:
  RemoteBackend backend_;
};

}  // namespace infercache

// The transport for the daemon's own host: shared memory for what is there, a Unix socket for what
// is to be put.
//
// Beside the asynchronous interface it has one that waits in the calling thread, which then reads
// the socket and copies values itself; and one that tries without the daemon and allocates nothing.

#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/src/local_lanes.h"
#include "client/src/local_link.h"
#include "client/src/local_reader.h"
#include "client/src/transport.h"
#include "common/fingerprint.h"

namespace infercache {

class LocalTransport final : public Transport {
 public:
  struct Options {
    std::string path;  // of the daemon's socket
    std::string namespace_name;
    Fingerprint fingerprint;
    // The UUID of a GPU: objects in its memory, which have places and no bytes. Then only what does
    // not touch bytes is of use: TryGet and GetNow with kRefused, Reserve, Commit, keys. Empty =
    // host memory.
    std::string device = {};
    // The daemon's clock, for expiry; null = the real one.
    std::function<absl::Time()> clock = {};
  };
  using Copies = LocalReader::Copies;

  // Starts to connect, and does not wait. RESOURCE_EXHAUSTED: out of descriptors or threads.
  static absl::StatusOr<std::unique_ptr<LocalTransport>> Connect(Options options);

  // --- Without the daemon. False: not settled, nothing is in the result; ask one of the others.
  bool TryGetInto(std::string_view key, std::span<std::byte> destination, GetIntoResult* result);
  bool TryGet(std::string_view key, Copies copies, GetResult* result);
  bool TryGetInto(std::span<const std::string_view> keys,
                  std::span<const std::span<std::byte>> destinations,
                  std::vector<GetIntoResult>* results);
  bool TryGet(std::span<const std::string_view> keys, Copies copies,
              std::vector<GetResult>* results);
  bool TryMatch(std::span<const std::string_view> keys, MatchResult* result);
  // Exists and Touch.
  bool TryKeys(KeysVerb verb, std::span<const std::string_view> keys, KeysResult* result);

  // --- In this thread, until it is answered or the deadline is over.
  std::vector<GetResult> GetNow(std::span<const std::string_view> keys, Copies copies,
                                absl::Time deadline, Reached* reached);
  std::vector<GetIntoResult> GetIntoNow(std::span<const std::string_view> keys,
                                        std::span<const std::span<std::byte>> destinations,
                                        absl::Time deadline, Reached* reached);
  std::vector<PutResult> PutNow(std::span<const PutItem> items, absl::Time deadline,
                                Reached* reached);
  std::vector<ReserveResult> ReserveNow(std::span<const ReserveItem> items, absl::Time deadline,
                                        Reached* reached);
  std::vector<PutResult> CommitNow(std::span<Reservation> reservations, absl::Time deadline,
                                   Reached* reached);
  MatchResult MatchNow(std::span<const std::string_view> keys, absl::Time deadline,
                       Reached* reached);
  KeysResult KeysNow(KeysVerb verb, std::span<const std::string_view> keys, absl::Time deadline,
                     Reached* reached);
  ListResult ListNow(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
                     absl::Time deadline, Reached* reached);
  absl::Status PingNow(absl::Time deadline, Reached* reached);

  // --- Transport.
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

  // For what is asked of the daemon besides.
  LocalLink& link() { return *link_; }

 private:
  explicit LocalTransport(std::function<absl::Time()> clock);

  LocalLanes lanes_;
  LocalReader reader_;
  // Destroyed first: waits for what is under way.
  std::unique_ptr<LocalLink> link_;
};

}  // namespace infercache

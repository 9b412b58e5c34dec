// File: infercache/client.h
//
// A Client asks an infercached daemon for objects before they are computed, and stores them after.
//
//   auto client = infercache::Client::Connect({.endpoint = "127.0.0.1:7400",
//                                              .fingerprint = {{"model", "llama-3-8b"}}});
//   if (!client.ok()) ...                                    // only for options that make no sense
//   infercache::GetResult got = (*client)->Get("block/42");
//   if (got.hit()) Use(got.object->bytes());
//   else (*client)->Put({.key = "block/42", .value = {ComputeBlock()}});
//
// Lanes: `unix:PATH` reaches a daemon on this host through shared memory. A hit there is a read of
// the daemon's own memory, without a system call and without the daemon; puts write in place.
// `HOST:PORT` reaches any daemon over gRPC. Everything below works over both.
//
// The core is asynchronous: Submit*() starts a batch and returns at once, Drain() hands out what
// has completed, event_fd() is readable while something is waiting in Drain(). The synchronous
// calls are the same requests, waited for.
//
// Failure: nothing here throws, blocks past its deadline, or crashes on what a daemon sends. A
// daemon that is dead, slow or refusing makes gets misses and puts refused, each with a status that
// says why. Nobody has to restart for a daemon that did: the client finds the new one by itself.
// Over gRPC, after `breaker_failures` transport failures in a row (a deadline below 250 ms that
// passed is none) calls fail at once, without I/O, and one probe per `breaker_probe_interval` finds
// out whether the daemon is back. On the local lane the kernel says at once that a daemon is gone.
//
// Thread-safety: all methods may be called from several threads at once. Each completion is handed
// out once, to whichever thread drains it.
//
// Lifetime: memory that a request names (keys excepted: they are copied) must stay valid and
// unchanged until its completion is drained, or the synchronous call returned. The destructor
// cancels what is under way and waits until nothing refers to the caller's memory any more.
//
// Fork: a client, its objects and its reservations belong to the process that made them. In a
// forked child its calls answer UNAVAILABLE, its objects must not be read, and destroying either is
// safe; a client made in the child works.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "infercache/claim.h"
#include "infercache/types.h"

namespace infercache {

struct TlsOptions {
  std::string ca_pem = {};           // empty = the system's roots
  std::string certificate_pem = {};  // with private_key_pem: mTLS
  std::string private_key_pem = {};
};

// How a client reaches its daemon.
enum class Lane {
  kRemote,  // gRPC, on any host
  kLocal,   // shared memory, on the daemon's own host
};

struct ClientOptions {
  // unix:PATH = local lane; host:port = gRPC; grpc+unix:PATH = gRPC over a Unix socket. Empty =
  // $INFERCACHE_ENDPOINT if set, else the local lane if there is a socket at the daemon's default
  // place, else 127.0.0.1:7400.
  std::string endpoint = {};
  std::string namespace_name = "default";
  // Objects stored under other entries are misses. State at least model, revision, dtype, layout.
  FingerprintEntries fingerprint = {};
  // For gRPC: on the local lane the kernel says who asks.
  std::string bearer_token = {};  // sent only over TLS, a Unix socket or to a loopback address
  std::optional<TlsOptions> tls = {};

  // For calls that do not bring their own. Covers everything, connecting included.
  absl::Duration deadline = absl::Seconds(5);
  // Over gRPC, values above this travel in chunks, one call per object. At most what the daemon
  // allows.
  uint64_t max_unary_bytes = uint64_t{32} << 20;

  int breaker_failures = 3;  // 0 = no breaker
  absl::Duration breaker_probe_interval = absl::Seconds(1);
  // Monotonic time for the breaker, and on the local lane for expiry (milliseconds since the Unix
  // epoch = the daemon's clock); null = the real clock. For tests.
  std::function<absl::Time()> clock = {};
};

struct CallOptions {
  std::optional<absl::Duration> deadline = {};
};

// One cached object, owned by the caller: its bytes stay valid until this is destroyed, whatever
// becomes of the client or the daemon. Move-only; reading is thread-safe, and any thread may
// destroy it.
class Object {
 public:
  // Owns the memory behind a result, or keeps the daemon from reusing it; only transports make one.
  class Storage {
   public:
    virtual ~Storage() = default;
    virtual bool zero_copy() const { return false; }
  };

  Object(std::span<const std::byte> bytes, std::vector<PartSpec> parts, ObjectInfo info,
         std::unique_ptr<Storage> storage);
  Object(Object&&) noexcept;
  Object& operator=(Object&&) noexcept;
  ~Object();

  // All parts back to back. Empty once moved from.
  std::span<const std::byte> bytes() const { return bytes_; }
  // Never empty: an object that was put without parts has one part of plain bytes.
  const std::vector<PartSpec>& parts() const { return parts_; }
  // The bytes of parts()[i]. REQUIRES: i < parts().size().
  std::span<const std::byte> part(size_t i) const;
  // parent_key is empty: the daemon does not keep it. ttl_ms is what was left at the hit.
  const ObjectInfo& info() const { return info_; }
  // Whether bytes() are the daemon's memory itself, pinned while this lives. What one client may
  // hold pinned is bounded: see View().
  bool zero_copy() const { return storage_ != nullptr && storage_->zero_copy(); }

  // For transports: takes out what keeps the bytes.
  std::unique_ptr<Storage> Release();

 private:
  std::span<const std::byte> bytes_;
  std::vector<PartSpec> parts_;
  ObjectInfo info_;
  std::unique_ptr<Storage> storage_;
};

struct GetResult {
  // Why there is no object, when that is more than a miss: UNAVAILABLE, DEADLINE_EXCEEDED, ...
  absl::Status status = {};
  std::optional<Object> object = {};

  bool hit() const { return object.has_value(); }
};

// For GetInto: a hit whose bytes are in the caller's buffer.
struct GetIntoResult {
  // As in GetResult; also OUT_OF_RANGE, with nothing written, if the object is larger than the
  // buffer.
  absl::Status status = {};
  bool hit = false;
  uint64_t size_bytes = 0;  // of the object, if it was found
};

struct PutItem {
  std::string_view key = {};  // 1..1024 bytes
  ObjectInfo info = {};
  std::vector<PartSpec> parts = {};  // empty = one part of plain bytes
  // The bytes, gathered from any number of pieces; together as many as the parts say.
  std::vector<std::span<const std::byte>> value = {};
  bool overwrite = false;
};

enum class PutOutcome {
  kRefused,  // not stored; the status says why
  kStored,
  kExists,  // an object was there and stays
};

struct PutResult {
  absl::Status status = {};  // OK unless kRefused
  PutOutcome outcome = PutOutcome::kRefused;
};

// An object to be written in place.
struct ReserveItem {
  std::string_view key = {};  // 1..1024 bytes
  uint64_t size_bytes = 0;
  ObjectInfo info = {};
  std::vector<PartSpec> parts = {};  // empty = one part of plain bytes
  bool overwrite = false;
  // Taken over by the reservation, if that is made: the claim then lasts as long as it, and passes
  // on if it is not committed. Null = none. Valid until the completion.
  Claim* claim = nullptr;
};

// Room for an object that nobody sees until it is committed: on the local lane the daemon's memory
// itself, over gRPC memory of this process. Destroyed uncommitted, it is aborted. Move-only. One
// thread at a time; any thread may destroy it, also after its client. Write nothing into bytes()
// once it was handed to Commit.
class Reservation {
 public:
  // What gives the room back; only transports make one.
  class Room {
   public:
    virtual ~Room() = default;  // aborts what was not committed
  };

  Reservation() = default;  // nothing
  Reservation(std::span<std::byte> bytes, std::unique_ptr<Room> room);
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  // size_bytes of them, to be filled; what is in them at first is unspecified. Empty once
  // committed or moved from.
  std::span<std::byte> bytes() const { return bytes_; }
  explicit operator bool() const { return room_ != nullptr; }

  // For transports: takes the room out.
  std::unique_ptr<Room> Release();

 private:
  std::span<std::byte> bytes_;
  std::unique_ptr<Room> room_;
};

struct ReserveResult {
  absl::Status status = {};  // why there is no reservation; OK also if the key exists
  bool exists = false;       // an object was there and stays: nothing to do
  std::optional<Reservation> reservation = {};
};

// What became of one key of a GetOrReserve: an object, or a claim to compute it, or neither: then
// it may be computed, but perhaps others do as well, and `status` says why.
struct GetOrReserveResult {
  absl::Status status = {};
  std::optional<Object> object = {};
  std::optional<Claim> claim = {};
};
struct GetOrReservePiece {
  size_t index = 0;  // of the key
  GetOrReserveResult result = {};
};

struct ComputeResult {
  absl::Status status = {};  // what the computation failed with; OK: here is the object
  std::optional<Object> object = {};
  bool computed = false;     // by this call; else it was there, or another client did
  absl::Status stored = {};  // if computed: why it is not in the cache
};

struct MatchResult {
  absl::Status status = {};
  size_t prefix_length = 0;               // how many of the first keys are all present
  std::vector<bool> present = {};         // per key; empty if status is not OK
  std::vector<uint64_t> size_bytes = {};  // per key, 0 where absent
};

// Per-key answers of Exists, Touch (present) and Delete (deleted). Empty if status is not OK.
struct KeysResult {
  absl::Status status = {};
  std::vector<bool> flags = {};
};

struct ListedObject {
  std::string key = {};
  uint64_t size_bytes = 0;
  ObjectInfo info = {};
  std::vector<PartSpec> parts = {};
};

struct ListResult {
  absl::Status status = {};
  std::vector<ListedObject> objects = {};  // in byte order of the key
  std::string next_page_token = {};        // empty = no more
};

using RequestId = uint64_t;

// What became of one Submit*(). Exactly the member that the call's name says is filled.
struct Completion {
  RequestId id = 0;
  bool more = false;  // further completions of this id follow: SubmitGetOrReserve
  std::vector<GetResult> get = {};
  std::vector<GetIntoResult> get_into = {};
  std::vector<PutResult> put = {};
  std::vector<ReserveResult> reserve = {};
  std::vector<PutResult> commit = {};
  std::vector<GetOrReservePiece> get_or_reserve = {};
  std::optional<MatchResult> match = {};
  std::optional<KeysResult> keys = {};
};

class Device;          // infercache/device.h
struct DeviceOptions;  // there, too

class Client {
 public:
  // Does not wait for the daemon: a client of a daemon that is not there yet gets misses until it
  // is. INVALID_ARGUMENT: an endpoint, fingerprint or TLS material that can never work.
  // RESOURCE_EXHAUSTED: the process is out of descriptors or threads.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  Lane lane() const;

  // The namespace's objects in the memory of a GPU: its UUID (see DeviceUuid), or "auto" for the
  // only one that this process sees. Retains the GPU's primary context. Does not wait for the
  // daemon: if it has no tier there, calls say so. UNIMPLEMENTED: no driver, or the client is one
  // over gRPC; INVALID_ARGUMENT, NOT_FOUND: no such GPU.
  absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view gpu);
  absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view gpu,
                                                     const DeviceOptions& options);

  // --- Asynchronous core. Every id completes exactly once, in any order; SubmitGetOrReserve, whose
  // keys are answered as each is known, in pieces. An empty batch completes
  // with an empty result. Results are in the order of the keys. ---
  RequestId SubmitGet(std::span<const std::string_view> keys, const CallOptions& call = {});
  // Copies each hit into destinations[i]. REQUIRES: as many destinations as keys.
  RequestId SubmitGetInto(std::span<const std::string_view> keys,
                          std::span<const std::span<std::byte>> destinations,
                          const CallOptions& call = {});
  // Blocks of one chain come in chain order.
  RequestId SubmitPut(std::span<const PutItem> items, const CallOptions& call = {});
  // Blocks of one chain come in chain order.
  RequestId SubmitReserve(std::span<const ReserveItem> items, const CallOptions& call = {});
  // Takes the reservations; a failed commit gives their room back. INVALID_ARGUMENT for one that is
  // empty or another client's.
  RequestId SubmitCommit(std::span<Reservation> reservations, const CallOptions& call = {});
  // Of keys that are missing, each is this client's to compute, or another's, which is waited for
  // until the deadline; see claim.h. An empty batch completes with an empty piece.
  RequestId SubmitGetOrReserve(std::span<const std::string_view> keys,
                               const ComputeOptions& options = {});
  // Longest cached prefix of a chain.
  RequestId SubmitMatch(std::span<const std::string_view> keys, const CallOptions& call = {});
  RequestId SubmitExists(std::span<const std::string_view> keys, const CallOptions& call = {});
  RequestId SubmitDelete(std::span<const std::string_view> keys, const CallOptions& call = {});
  RequestId SubmitTouch(std::span<const std::string_view> keys, const CallOptions& call = {});

  // Readable (poll, epoll) while Drain() would return something. Owned by the client, and not to be
  // read: Drain() does that. Whoever reads it all the same, as one does with an eventfd, has to do
  // so before Drain(), or misses what completes in between. In a forked child one of its own, where
  // what it submits with the parent's client fails; -1 if the child has no descriptor left.
  int event_fd() const;
  // What completed since the last call; never blocks.
  std::vector<Completion> Drain();

  // --- Synchronous: submit and wait; their completions do not show in Drain(). ---
  // On the local lane an object is zero-copy as long as what the client holds stays within its pin
  // budget (as a rule a quarter of the namespace's quota), and a copy beyond it.
  GetResult Get(std::string_view key, const CallOptions& call = {});
  std::vector<GetResult> Get(std::span<const std::string_view> keys, const CallOptions& call = {});
  // Only zero-copy objects. RESOURCE_EXHAUSTED: it is there, but pinning it would exceed the
  // client's budget of bytes or slots: drop some objects first. UNIMPLEMENTED over gRPC.
  GetResult View(std::string_view key, const CallOptions& call = {});
  std::vector<GetResult> View(std::span<const std::string_view> keys, const CallOptions& call = {});
  GetIntoResult GetInto(std::string_view key, std::span<std::byte> destination,
                        const CallOptions& call = {});
  // REQUIRES: as many destinations as keys.
  std::vector<GetIntoResult> GetInto(std::span<const std::string_view> keys,
                                     std::span<const std::span<std::byte>> destinations,
                                     const CallOptions& call = {});
  PutResult Put(const PutItem& item, const CallOptions& call = {});
  std::vector<PutResult> Put(std::span<const PutItem> items, const CallOptions& call = {});
  // In place: Reserve, fill bytes(), Commit; one round trip each, whatever the number of objects.
  std::vector<ReserveResult> Reserve(std::span<const ReserveItem> items,
                                     const CallOptions& call = {});
  std::vector<PutResult> Commit(std::span<Reservation> reservations, const CallOptions& call = {});
  // The objects, computed by `compute` in this thread where nobody else has or does; see claim.h.
  // Whatever is wrong with the daemon, each key is computed then. An exception of `compute` goes
  // through, and passes on what the call claims. `compute` may be called a second time for a key
  // whose bytes were lost between its end and their commit (the daemon died, or took no more). It
  // must not itself wait for a key that this call has won. Several keys are a chain, as in every
  // batch: each goes behind the one before it, unless its info names another parent.
  ComputeResult GetOrCompute(std::string_view key, const ComputeFunction& compute,
                             const ComputeOptions& options = {});
  std::vector<ComputeResult> GetOrCompute(std::span<const std::string_view> keys,
                                          const ComputeFunction& compute,
                                          const ComputeOptions& options = {});
  MatchResult Match(std::span<const std::string_view> keys, const CallOptions& call = {});
  KeysResult Exists(std::span<const std::string_view> keys, const CallOptions& call = {});
  KeysResult Delete(std::span<const std::string_view> keys, const CallOptions& call = {});
  KeysResult Touch(std::span<const std::string_view> keys, const CallOptions& call = {});
  ListResult List(std::string_view key_prefix, uint32_t page_size = 0,
                  std::string_view page_token = {}, const CallOptions& call = {});
  // OK if the daemon answers and serves.
  absl::Status Ping(const CallOptions& call = {});

 private:
  class Impl;
  explicit Client(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;  // shared with its devices
};

}  // namespace infercache

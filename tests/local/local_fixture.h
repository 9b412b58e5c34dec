// A store, a same-host server over it, and verbs that let a test read as a story. Ends with the
// store's own question: is everything given back once all sessions are over?

#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "server/local/local_server.h"
#include "tests/local/raw_client.h"
#include "tests/store/store_fixture.h"

namespace infercache::local {

// Waits until `condition` holds, looking again every millisecond; false if it never does.
bool Eventually(const std::function<bool()>& condition, absl::Duration within = kPatience);

v1::ReserveItem MakeItem(std::string_view key, uint64_t size_bytes, bool overwrite = false);

// An ordinary client: a session, with every verb. Verbs expect an answer without a status; to see
// one, use raw().Ask.
class Worker {
 public:
  explicit Worker(RawClient client) : client_(std::move(client)) {}

  RawClient& raw() { return client_; }
  const v1::Welcome& welcome() const { return client_.welcome(); }

  v1::ReservedItem Reserve(std::string_view key, uint64_t size_bytes, bool overwrite = false);
  std::vector<v1::ReservedItem> ReserveAll(const std::vector<v1::ReserveItem>& items);
  // Into the place of a reservation.
  void WriteInPlace(const v1::ReservedItem& place, std::string_view value);
  void SendWrite(uint64_t reservation, uint64_t offset, std::string_view data);
  v1::LocalPutResult Commit(uint64_t reservation);
  std::vector<v1::LocalPutResult> CommitAll(const std::vector<uint64_t>& reservations);
  void Abort(const std::vector<uint64_t>& reservations);
  // Reserve, write in place, commit: must be stored.
  void Put(std::string_view key, std::string_view value);
  v1::LocalPutResult PutInline(std::string_view key, std::string_view value);

  // From shared memory, without the daemon. Leaves the pin in `slot` if asked to.
  std::optional<std::string> Get(std::string_view key, uint64_t now_ms, uint32_t slot = 0,
                                 bool keep_pin = false);
  std::vector<v1::FoundItem> Lookup(const std::vector<std::string>& keys);
  std::string BytesOf(const v1::FoundItem& item);
  void Release(const std::vector<uint64_t>& leases);
  // Bit by bit as characters: "101".
  std::string Remove(const std::vector<std::string>& keys);
  v1::KeyPage ListKeys(std::string_view prefix = "", uint32_t page_size = 0,
                       std::string_view token = "");
  // Comes back once everything sent before has been done.
  void Ping();

 private:
  v1::LocalResponse MustAsk(const v1::LocalRequest& request);

  RawClient client_;
};

class LocalFixture : public store::StoreFixture {
 protected:
  LocalFixture();
  // Shuts the server down and demands that the store holds nothing.
  void TearDown() override;

  std::string socket_path() const { return directory_ + "/infercached.sock"; }
  // Starts the server. The path and the log are the fixture's.
  void Serve(LocalOptions options = {});
  // A session that must open, with its chunks mapped.
  Worker Open(const Opening& opening = {.namespace_name = "default"});
  RawClient Connect();
  // What the answer to a Hello says.
  absl::Status TryOpen(const Opening& opening);

  uint64_t Ended(EndReason reason) const {
    return server_->stats().sessions_ended[static_cast<size_t>(reason)];
  }
  // Ends the session (while one is open, eviction goes in batches), then puts objects of
  // kMaxInlineBytes until one of `keys`, all of that size, makes room. Which?
  std::string FirstToGo(Worker worker, const store::NamespaceVerbs& ns,
                        const std::vector<std::string>& keys);
  // Waits until `reason` has ended one session, the first of the test.
  void ExpectEnds(EndReason reason);
  std::string Log() ABSL_LOCKS_EXCLUDED(log_mu_);

  const std::string directory_;
  std::unique_ptr<LocalServer> server_;

 private:
  Mutex log_mu_;
  std::string log_ ABSL_GUARDED_BY(log_mu_);
};

}  // namespace infercache::local

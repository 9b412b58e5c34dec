#include "tests/local/local_fixture.h"

#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/fingerprint.h"
#include "common/limits.h"
#include "common/shm/reader.h"

namespace infercache::local {
namespace {

std::string MakeDirectory() {
  std::string path = ::testing::TempDir() + "/infercache-local-XXXXXX";
  return mkdtemp(path.data()) == nullptr ? std::string() : path;
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, absl::Duration within) {
  const absl::Time deadline = absl::Now() + within;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

v1::ReserveItem MakeItem(std::string_view key, uint64_t size_bytes, bool overwrite) {
  v1::ReserveItem item;
  item.set_key(std::string(key));
  item.set_size_bytes(size_bytes);
  item.set_overwrite(overwrite);
  return item;
}

v1::LocalResponse Worker::MustAsk(const v1::LocalRequest& request) {
  auto received = client_.Ask(request);
  EXPECT_TRUE(received.ok()) << received.status();
  return received.ok() ? received->response : v1::LocalResponse();
}

std::vector<v1::ReservedItem> Worker::ReserveAll(const std::vector<v1::ReserveItem>& items) {
  v1::LocalRequest request;
  request.mutable_reserve();
  for (const v1::ReserveItem& item : items) *request.mutable_reserve()->add_items() = item;
  const v1::LocalResponse response = MustAsk(request);
  EXPECT_EQ(response.reserved().items_size(), static_cast<int>(items.size()));
  return {response.reserved().items().begin(), response.reserved().items().end()};
}

v1::ReservedItem Worker::Reserve(std::string_view key, uint64_t size_bytes, bool overwrite) {
  const auto items = ReserveAll({MakeItem(key, size_bytes, overwrite)});
  return items.empty() ? v1::ReservedItem() : items[0];
}

void Worker::WriteInPlace(const v1::ReservedItem& place, std::string_view value) {
  const std::span<std::byte> chunk = client_.chunk(place.chunk());
  ASSERT_LE(place.offset() + value.size(), chunk.size());
  std::memcpy(chunk.data() + place.offset(), value.data(), value.size());
}

void Worker::SendWrite(uint64_t reservation, uint64_t offset, std::string_view data) {
  v1::LocalRequest request;
  request.mutable_write()->set_reservation(reservation);
  request.mutable_write()->set_offset(offset);
  request.mutable_write()->set_data(std::string(data));
  const absl::Status status = client_.Send(request);
  EXPECT_TRUE(status.ok()) << status;
}

std::vector<v1::LocalPutResult> Worker::CommitAll(const std::vector<uint64_t>& reservations) {
  v1::LocalRequest request;
  request.mutable_commit();
  for (const uint64_t id : reservations) request.mutable_commit()->add_reservations(id);
  const v1::LocalResponse response = MustAsk(request);
  EXPECT_EQ(response.put_results().results_size(), static_cast<int>(reservations.size()));
  return {response.put_results().results().begin(), response.put_results().results().end()};
}

v1::LocalPutResult Worker::Commit(uint64_t reservation) {
  const auto results = CommitAll({reservation});
  return results.empty() ? v1::LocalPutResult() : results[0];
}

void Worker::Abort(const std::vector<uint64_t>& reservations) {
  v1::LocalRequest request;
  request.mutable_abort();
  for (const uint64_t id : reservations) request.mutable_abort()->add_reservations(id);
  EXPECT_TRUE(MustAsk(request).has_empty());
}

void Worker::Put(std::string_view key, std::string_view value) {
  const v1::ReservedItem place = Reserve(key, value.size());
  ASSERT_EQ(place.code(), 0u) << place.message();
  WriteInPlace(place, value);
  ASSERT_EQ(Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
}

v1::LocalPutResult Worker::PutInline(std::string_view key, std::string_view value) {
  v1::LocalRequest request;
  v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
  *item.mutable_object() = MakeItem(key, value.size());
  item.set_value(std::string(value));
  const v1::LocalResponse response = MustAsk(request);
  EXPECT_EQ(response.put_results().results_size(), 1);
  return response.put_results().results().empty() ? v1::LocalPutResult()
                                                  : response.put_results().results(0);
}

std::optional<std::string> Worker::Get(std::string_view key, uint64_t now_ms, uint32_t slot,
                                       bool keep_pin) {
  shm::SessionPage page = client_.page();
  page.RaiseSlotsInUse(slot + 1);
  const shm::IndexView index = client_.index();
  const Hash128 hash = HashKey(index.header().hash_seed, Fingerprint().hash(), key);
  const shm::FindResult found = shm::FindAndPin(index, hash, key, now_ms, page.slot(slot));
  if (found.outcome != shm::FindOutcome::kPinned) return std::nullopt;
  const std::span<std::byte> chunk = client_.chunk(found.record->segment());
  std::string value(found.record->size(), '\0');
  std::memcpy(value.data(), chunk.data() + found.record->offset(), value.size());
  if (!keep_pin) shm::Unpin(page.slot(slot));
  return value;
}

std::vector<v1::FoundItem> Worker::Lookup(const std::vector<std::string>& keys) {
  v1::LocalRequest request;
  request.mutable_lookup();
  for (const std::string& key : keys) request.mutable_lookup()->add_keys(key);
  const v1::LocalResponse response = MustAsk(request);
  EXPECT_EQ(response.found().items_size(), static_cast<int>(keys.size()));
  return {response.found().items().begin(), response.found().items().end()};
}

std::string Worker::BytesOf(const v1::FoundItem& item) {
  const std::span<std::byte> bytes =
      client_.chunk(item.chunk()).subspan(item.offset(), item.object().size_bytes());
  return store::ToString(bytes);
}

void Worker::Release(const std::vector<uint64_t>& leases) {
  v1::LocalRequest request;
  request.mutable_release();
  for (const uint64_t lease : leases) request.mutable_release()->add_leases(lease);
  const absl::Status status = client_.Send(request);
  EXPECT_TRUE(status.ok()) << status;
}

std::string Worker::Remove(const std::vector<std::string>& keys) {
  v1::LocalRequest request;
  request.mutable_remove();
  for (const std::string& key : keys) request.mutable_remove()->add_keys(key);
  const std::string bits = MustAsk(request).removed().removed();
  EXPECT_EQ(bits.size(), (keys.size() + 7) / 8);
  std::string result;
  for (size_t i = 0; i < keys.size() && i / 8 < bits.size(); ++i) {
    result.push_back((bits[i / 8] >> i % 8 & 1) != 0 ? '1' : '0');
  }
  return result;
}

v1::KeyPage Worker::ListKeys(std::string_view prefix, uint32_t page_size, std::string_view token) {
  v1::LocalRequest request;
  request.mutable_list_keys()->set_key_prefix(std::string(prefix));
  request.mutable_list_keys()->set_page_size(page_size);
  request.mutable_list_keys()->set_page_token(std::string(token));
  return MustAsk(request).key_page();
}

void Worker::Ping() {
  v1::LocalRequest request;
  request.mutable_ping();
  EXPECT_TRUE(MustAsk(request).has_empty());
}

LocalFixture::LocalFixture() : directory_(MakeDirectory()) {}

void LocalFixture::TearDown() {
  if (server_ != nullptr) {
    server_->Shutdown(absl::InfinitePast());
    const LocalStats stats = server_->stats();
    EXPECT_EQ(stats.sessions, 0u);
    EXPECT_EQ(stats.sessions_without_pidfd, 0u);
    EXPECT_EQ(stats.quarantined_reservations, 0u);
    EXPECT_FALSE(std::filesystem::exists(socket_path()));
    server_.reset();
  }
  std::filesystem::remove_all(directory_);
  store::StoreFixture::TearDown();
}

void LocalFixture::Serve(LocalOptions options) {
  options.socket_path = socket_path();
  options.daemon_version = "test";
  options.log = [this](LocalOptions::Severity, std::string_view message) {
    MutexLock lock(&log_mu_);
    log_.append(message).push_back('\n');
  };
  auto server = LocalServer::Start(options, *store_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

RawClient LocalFixture::Connect() {
  auto client = RawClient::Connect(socket_path());
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : RawClient(UniqueFd());
}

Worker LocalFixture::Open(const Opening& opening) {
  RawClient client = Connect();
  absl::Status status = client.Open(opening);
  if (status.ok()) status = client.MapChunks();
  EXPECT_TRUE(status.ok()) << status;
  return Worker(std::move(client));
}

absl::Status LocalFixture::TryOpen(const Opening& opening) { return Connect().Open(opening); }

std::string LocalFixture::FirstToGo(Worker worker, const store::NamespaceVerbs& ns,
                                    const std::vector<std::string>& keys) {
  worker.raw().Close();
  ExpectEnds(EndReason::kClosed);
  for (int i = 0; i < 1'000; ++i) {
    ns.MustPut("filler" + std::to_string(i), std::string(kMaxInlineBytes, 'f'));
    for (const std::string& key : keys) {
      if (!ns.Has(key)) return key;
    }
  }
  return "none";
}

void LocalFixture::ExpectEnds(EndReason reason) {
  EXPECT_TRUE(Eventually([&] { return Ended(reason) == 1; }))
      << "no session ended as " << EndReasonName(reason) << "\n"
      << Log();
  EXPECT_EQ(server_->stats().sessions_opened - server_->stats().sessions, 1u);
}

std::string LocalFixture::Log() {
  MutexLock lock(&log_mu_);
  return log_;
}

}  // namespace infercache::local

#include "bench/compare/local_client.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

std::unique_ptr<Client> ConnectOrDie(const std::string& endpoint, const std::string& name) {
  ClientOptions options;
  options.endpoint = endpoint;
  options.namespace_name = name;
  auto client = Client::Connect(std::move(options));
  if (!client.ok()) Die(client.status().ToString());
  if ((*client)->lane() != Lane::kLocal) Die(endpoint + " is not the same-host lane");
  return *std::move(client);
}

void MustStore(const PutResult& result) {
  if (result.outcome != PutOutcome::kStored)
    Die("a put was not stored: " + result.status.ToString());
}

}  // namespace

LocalClient::LocalClient(const std::string& endpoint, const std::string& namespace_name)
    : client_(ConnectOrDie(endpoint, namespace_name)) {}

PutItem LocalClient::Item(std::string_view key, std::string_view value) const {
  PutItem item;
  item.key = key;
  item.value = {std::as_bytes(std::span(value))};
  item.overwrite = true;
  return item;
}

void LocalClient::Put(std::string_view key, std::string_view value) {
  MustStore(client_->Put(Item(key, value)));
}

void LocalClient::PutAll(const std::vector<std::string>& keys, std::string_view value) {
  for (const std::string& key : keys) Put(key, value);
}

void LocalClient::PutInPlace(std::string_view key, std::string_view value) {
  const ReserveItem item = {.key = key, .size_bytes = value.size(), .overwrite = true};
  std::vector<ReserveResult> reserved = client_->Reserve(std::span(&item, 1));
  if (!reserved[0].reservation) Die("a reservation was refused: " + reserved[0].status.ToString());
  Reservation& reservation = *reserved[0].reservation;
  std::memcpy(reservation.bytes().data(), value.data(), value.size());
  MustStore(client_->Commit(std::span(&reservation, 1)).front());
}

void LocalClient::PutMany(std::span<const std::string_view> keys, std::string_view value) {
  std::vector<PutItem> items;
  items.reserve(keys.size());
  for (const std::string_view key : keys) items.push_back(Item(key, value));
  for (const PutResult& result : client_->Put(items)) MustStore(result);
}

void LocalClient::Remove(const std::vector<std::string>& keys) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const KeysResult result = client_->Delete(views);
  if (!result.status.ok()) Die(result.status.ToString());
}

bool LocalClient::TryCopyOut(std::string_view key, std::span<std::byte> buffer) {
  return client_->GetInto(key, buffer).hit;
}

void LocalClient::CopyOut(std::string_view key, std::span<std::byte> buffer) {
  const GetIntoResult got = client_->GetInto(key, buffer);
  if (!got.hit || got.size_bytes != buffer.size())
    Die(absl::StrCat("no hit of ", std::string(key)));
}

void LocalClient::View(std::string_view key, size_t size) {
  const GetResult got = client_->View(key);
  if (!got.hit() || got.object->bytes().size() != size) {
    Die(absl::StrCat("no view of ", std::string(key), ": ", got.status.ToString()));
  }
}

Object LocalClient::Hold(std::string_view key) {
  GetResult got = client_->View(key);
  if (!got.hit()) Die(absl::StrCat("no view of ", std::string(key), ": ", got.status.ToString()));
  return *std::move(got.object);
}

void LocalClient::MatchAll(std::span<const std::string_view> keys) {
  if (client_->Match(keys).prefix_length != keys.size()) Die("Match: keys are missing");
}

void LocalClient::WarmUp(std::string_view value, size_t count) {
  for (size_t i = 0; i < count; ++i) PutInPlace(absl::StrCat("warm-up:", i), value);
}

std::shared_ptr<LocalClient> LargeValueClient(const Context& context, const std::string& name) {
  const uint64_t values = context.plan.quick ? 48 : 192;
  const std::string value(size_t{1} << 20, 'v');
  // Where its user may make namespaces.
  ProtobufClient(context.servers.ours_unix).CreateNamespace(name, values * value.size());
  auto client = std::make_shared<LocalClient>(context.servers.ours_unix, name);
  client->WarmUp(value, 2 * values);
  return client;
}

}  // namespace infercache::bench

#include "bench/compare/memcached_client.h"

#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {

void MemcachedClient::Set(const std::string& key, std::string_view value) {
  request_.clear();
  AppendSet(key, value);
  connection_.Send(request_);
  connection_.Expect("STORED");
}

void MemcachedClient::SetMany(const std::vector<std::string_view>& keys, std::string_view value) {
  request_.clear();
  for (const std::string_view key : keys) AppendSet(key, value);
  connection_.Send(request_);
  for (size_t i = 0; i < keys.size(); ++i) connection_.Expect("STORED");
}

// One copy of the value, into memory that is warm: what a client library of its does.
void MemcachedClient::AppendSet(std::string_view key, std::string_view value) {
  request_.append("set ").append(key).append(" 0 0 ").append(std::to_string(value.size()));
  request_.append("\r\n").append(value).append("\r\n");
}

std::string_view MemcachedClient::Get(const std::string& key) {
  connection_.Send(absl::StrCat("get ", key, "\r\n"));
  const std::string_view head = connection_.ReadLine();  // VALUE key flags bytes
  size_t size;
  const size_t space = head.rfind(' ');
  if (!head.starts_with("VALUE ") ||
      !absl::SimpleAtoi(std::string(head.substr(space + 1)), &size)) {
    Die(absl::StrCat("memcached has no ", key));
  }
  constexpr std::string_view kTail = "\r\nEND\r\n";
  const std::string_view all = connection_.Read(size + kTail.size());
  if (!all.ends_with(kTail)) Die("memcached: a value that does not end where it says");
  return all.substr(0, size);
}

void MemcachedClient::FlushAll() {
  connection_.Send("flush_all\r\n");
  connection_.Expect("OK");
}

std::string MemcachedClient::PresenceRequest(const std::vector<std::string>& keys) {
  std::string request;
  for (const std::string& key : keys) absl::StrAppend(&request, "mg ", key, "\r\n");
  return request;
}

size_t MemcachedClient::CountPresent(const std::string& request, size_t count) {
  connection_.Send(request);
  size_t present = 0;
  for (size_t i = 0; i < count; ++i) present += connection_.ReadLine() == "HD";
  return present;
}

uint64_t MemcachedClient::Statistic(const std::string& name) {
  connection_.Send("stats\r\n");
  const std::string prefix = absl::StrCat("STAT ", name, " ");
  std::optional<uint64_t> found;
  for (std::string_view line; (line = connection_.ReadLine()) != "END";) {
    uint64_t value;
    if (!line.starts_with(prefix)) continue;
    if (absl::SimpleAtoi(std::string(line.substr(prefix.size())), &value)) found = value;
  }
  if (!found) Die(absl::StrCat("memcached has no statistic ", name));
  return *found;
}

}  // namespace infercache::bench

#include "bench/compare/redis_client.h"

#include <initializer_list>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

std::string Command(std::initializer_list<std::string_view> words) {
  std::string bytes = absl::StrCat("*", words.size(), "\r\n");
  for (const std::string_view word : words) {
    absl::StrAppend(&bytes, "$", word.size(), "\r\n");
    bytes.append(word).append("\r\n");
  }
  return bytes;
}

}  // namespace

std::string_view RedisClient::ReadBulk() {
  const std::string_view head = connection_.ReadLine();  // $bytes
  size_t size;
  if (!head.starts_with('$') || !absl::SimpleAtoi(std::string(head.substr(1)), &size)) {
    Die(absl::StrCat("redis answered ", std::string(head), " where a value was expected"));
  }
  return connection_.Read(size + 2).substr(0, size);
}

void RedisClient::Set(const std::string& key, std::string_view value) {
  connection_.Send(Command({"SET", key, value}));
  connection_.Expect("+OK");
}

std::string_view RedisClient::Get(const std::string& key) {
  connection_.Send(Command({"GET", key}));
  return ReadBulk();
}

void RedisClient::FlushAll() {
  connection_.Send(Command({"FLUSHALL"}));
  connection_.Expect("+OK");
}

std::string RedisClient::PresenceRequest(const std::vector<std::string>& keys) {
  std::string request;
  for (const std::string& key : keys) request += Command({"EXISTS", key});
  return request;
}

size_t RedisClient::CountPresent(const std::string& request, size_t count) {
  connection_.Send(request);
  size_t present = 0;
  for (size_t i = 0; i < count; ++i) present += connection_.ReadLine() == ":1";
  return present;
}

uint64_t RedisClient::UsedMemory() {
  connection_.Send(Command({"INFO", "memory"}));
  const std::string info(ReadBulk());
  constexpr std::string_view kName = "\nused_memory:";
  const size_t at = info.find(kName);
  if (at == std::string::npos) Die("redis has no used_memory");
  const size_t begin = at + kName.size();
  uint64_t bytes;
  if (!absl::SimpleAtoi(info.substr(begin, info.find('\r', begin) - begin), &bytes)) {
    Die("redis: used_memory is no number");
  }
  return bytes;
}

}  // namespace infercache::bench

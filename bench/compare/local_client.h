// The client library on the same-host lane, as the measurements use it. Ends the program on any
// answer that is not the expected one.

#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/compare/cases.h"
#include "infercache/client.h"

namespace infercache::bench {

// As thread-safe as a Client.
class LocalClient {
 public:
  // `endpoint` is unix:PATH.
  explicit LocalClient(const std::string& endpoint, const std::string& namespace_name = "default");

  // Stores it, over whatever is there.
  void Put(std::string_view key, std::string_view value);
  // The same value under each key.
  void PutAll(const std::vector<std::string>& keys, std::string_view value);
  // Reserve, write in place, commit: what a worker does that computes into the cache.
  void PutInPlace(std::string_view key, std::string_view value);
  // The same value under each key, in one batch.
  void PutMany(std::span<const std::string_view> keys, std::string_view value);
  void Remove(const std::vector<std::string>& keys);

  // Copies a hit that is as large as `buffer`.
  void CopyOut(std::string_view key, std::span<std::byte> buffer);
  // False: it is not there.
  bool TryCopyOut(std::string_view key, std::span<std::byte> buffer);
  // Takes a zero-copy view of `size` bytes and drops it.
  void View(std::string_view key, size_t size);
  Object Hold(std::string_view key);
  // All keys must be there.
  void MatchAll(std::span<const std::string_view> keys);

  // Writes every byte of the arena that puts will use once, so that what follows is warm.
  void WarmUp(std::string_view value, size_t count);

 private:
  PutItem Item(std::string_view key, std::string_view value) const;

  const std::unique_ptr<Client> client_;
};

// A client in a new namespace for large values, whose whole arena it has written once: the first
// touch is a row of its own.
std::shared_ptr<LocalClient> LargeValueClient(const Context& context, const std::string& name);

}  // namespace infercache::bench

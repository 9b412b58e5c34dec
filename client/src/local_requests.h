// What only the daemon can do besides puts: Delete, List and Ping, as conversations.

#pragma once

#include <span>
#include <string>
#include <string_view>

#include "client/src/local_conversation.h"

namespace infercache {

class RemoveConversation : public Conversation {
 public:
  // `keys` outlive the conversation.
  RemoveConversation(std::span<const std::string_view> keys, Done<KeysResult> done)
      : keys_(keys), done_(std::move(done)) {
    result.flags.resize(keys.size());
  }

  bool Next(v1::LocalRequest* request) override;
  void Deliver() override { done_(std::move(result), reached_); }

  KeysResult result;

 protected:
  void Fail(const absl::Status& status) override;
  void Take(LocalAnswer answer) override;

 private:
  const std::span<const std::string_view> keys_;
  Done<KeysResult> done_;
  size_t begin_ = 0, end_ = 0;  // of the keys in the request under way
};

class ListConversation final : public Conversation {
 public:
  ListConversation(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
                   Done<ListResult> done)
      : key_prefix_(key_prefix),
        page_token_(page_token),
        page_size_(page_size),
        done_(std::move(done)) {}

  bool Next(v1::LocalRequest* request) override;
  void Deliver() override { done_(std::move(result), reached_); }

  ListResult result;

 protected:
  void Fail(const absl::Status& status) override { result = {.status = status}; }
  void Take(LocalAnswer answer) override;

 private:
  const std::string key_prefix_;
  const std::string page_token_;
  const uint32_t page_size_;
  Done<ListResult> done_;
  bool asked_ = false;
};

class PingConversation final : public Conversation {
 public:
  explicit PingConversation(Done<absl::Status> done) : done_(std::move(done)) {}

  bool Next(v1::LocalRequest* request) override;
  void Deliver() override { done_(std::move(result), reached_); }

  absl::Status result;

 protected:
  void Fail(const absl::Status& status) override { result = status; }
  void Take(LocalAnswer answer) override { result = answer.status; }

 private:
  Done<absl::Status> done_;
  bool asked_ = false;
};

}  // namespace infercache

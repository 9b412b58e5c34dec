// Get, GetInto, Match, Exists and Touch as conversations: what shared memory does not settle, the
// daemon is asked for, one key at a time. That is rare: a key that is replaced all the time, a
// value that fails its checksum, too few slots for a batch.

#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "client/src/local_conversation.h"
#include "client/src/local_reader.h"
#include "client/src/transport.h"
#include "convert/types.h"

namespace infercache {

class ReadConversation : public Conversation {
 public:
  bool Next(v1::LocalRequest* request) final;

 protected:
  // `keys` outlive the conversation; of a legal length.
  ReadConversation(LocalReader& reader, std::span<const std::string_view> keys)
      : reader_(reader), keys_(keys) {}

  void Take(LocalAnswer answer) final;

  // Reads all keys, into results that are as new. As LocalReader says.
  virtual LocalReader::Settled Read(std::vector<size_t>* left) = 0;
  // How many views it would like to hold at once.
  virtual size_t views() const { return 0; }
  // What the daemon says about a key that was left, and has leased. True: the lease is kept. In a
  // GPU there are no bytes.
  virtual bool Found(size_t index, const v1::FoundItem& item, ObjectDescription description,
                     std::span<const std::byte> bytes) = 0;
  virtual void FailOne(size_t index, const absl::Status& status) = 0;

  LocalReader& reader_;
  const std::span<const std::string_view> keys_;

 private:
  void TakeFound(size_t index, const v1::Found& found);

  bool asked_for_slots_ = false;
  bool read_ = false;
  std::vector<size_t> left_;  // indices, the next one to ask for last
};

class GetConversation : public ReadConversation {
 public:
  using Results = std::vector<GetResult>;
  GetConversation(LocalReader& reader, std::span<const std::string_view> keys,
                  LocalReader::Copies copies, Done<Results> done)
      : ReadConversation(reader, keys),
        results(keys.size()),
        copies_(copies),
        done_(std::move(done)) {}

  void Deliver() override { done_(std::move(results), reached_); }

  Results results;

 protected:
  void Fail(const absl::Status& status) override;
  LocalReader::Settled Read(std::vector<size_t>* left) override;
  size_t views() const override { return keys_.size(); }
  bool Found(size_t index, const v1::FoundItem& item, ObjectDescription description,
             std::span<const std::byte> bytes) override;
  void FailOne(size_t index, const absl::Status& status) override;

 private:
  const LocalReader::Copies copies_;
  Done<Results> done_;
};

class GetIntoConversation : public ReadConversation {
 public:
  using Results = std::vector<GetIntoResult>;
  GetIntoConversation(LocalReader& reader, std::span<const std::string_view> keys,
                      std::span<const std::span<std::byte>> destinations, Done<Results> done)
      : ReadConversation(reader, keys),
        results(keys.size()),
        destinations_(destinations.begin(), destinations.end()),
        done_(std::move(done)) {}

  void Deliver() override { done_(std::move(results), reached_); }

  Results results;

 protected:
  void Fail(const absl::Status& status) override;
  LocalReader::Settled Read(std::vector<size_t>* left) override;
  bool Found(size_t index, const v1::FoundItem& item, ObjectDescription description,
             std::span<const std::byte> bytes) override;
  void FailOne(size_t index, const absl::Status& status) override;

 private:
  const std::vector<std::span<std::byte>> destinations_;
  Done<Results> done_;
};

// Match, and with other ends Exists and Touch.
class MatchConversation : public ReadConversation {
 public:
  MatchConversation(LocalReader& reader, std::span<const std::string_view> keys, bool touch,
                    Done<MatchResult> done)
      : ReadConversation(reader, keys), touch_(touch), done_(std::move(done)) {}

  void Deliver() override { done_(TakeResult(), reached_); }
  MatchResult TakeResult();

 protected:
  void Fail(const absl::Status& status) override { result_ = {.status = status}; }
  LocalReader::Settled Read(std::vector<size_t>* left) override;
  bool Found(size_t index, const v1::FoundItem& item, ObjectDescription description,
             std::span<const std::byte> bytes) override;
  void FailOne(size_t, const absl::Status& status) override { Fail(status); }

 private:
  const bool touch_;
  MatchResult result_;
  Done<MatchResult> done_;
};

}  // namespace infercache

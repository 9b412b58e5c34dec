// A place in the work of a stream (an event), which can be asked whether the stream has come there.

#pragma once

#include <memory>
#include <optional>

#include "common/cuda/context.h"

namespace infercache::cuda {

// Without timing. Its context is current wherever it is made, used and destroyed. Movable; not
// thread-safe.
class StreamMark {
 public:
  // What the driver says; *mark is made on success.
  static Result Create(std::shared_ptr<const PrimaryContext> context,
                       std::optional<StreamMark>* mark);
  StreamMark(StreamMark&& other) noexcept = default;
  StreamMark& operator=(StreamMark&& other) noexcept;
  ~StreamMark();

  // After all that `stream` was given so far. In place of where it was recorded before.
  Result Record(Stream stream);
  // kSuccess: the stream has come there; kNotReady; or what its context died of. Also if the
  // stream was destroyed since.
  Result Query() const;

 private:
  StreamMark(std::shared_ptr<const PrimaryContext> context, Event event)
      : context_(std::move(context)), event_(event) {}

  std::shared_ptr<const PrimaryContext> context_;  // null = moved from
  Event event_ = nullptr;
};

}  // namespace infercache::cuda

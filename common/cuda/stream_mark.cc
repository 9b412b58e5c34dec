#include "common/cuda/stream_mark.h"

#include <utility>

namespace infercache::cuda {

Result StreamMark::Create(std::shared_ptr<const PrimaryContext> context,
                          std::optional<StreamMark>* mark) {
  Event event = nullptr;
  const Result made = context->driver().api().event_create(&event, kEventDisableTiming);
  if (made == kSuccess) mark->emplace(StreamMark(std::move(context), event));
  return made;
}

StreamMark& StreamMark::operator=(StreamMark&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(event_, other.event_);
  return *this;
}

StreamMark::~StreamMark() {
  if (context_ != nullptr) (void)context_->driver().api().event_destroy(event_);
}

Result StreamMark::Record(Stream stream) {
  return context_->driver().api().event_record(event_, stream);
}

Result StreamMark::Query() const { return context_->driver().api().event_query(event_); }

}  // namespace infercache::cuda

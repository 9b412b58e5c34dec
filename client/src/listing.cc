#include "client/src/listing.h"

#include <utility>

#include "client/src/daemon_status.h"
#include "convert/types.h"

namespace infercache {

ListResult TakeListing(google::protobuf::RepeatedPtrField<v1::ListedObject> objects,
                       std::string next_page_token) {
  ListResult result{.next_page_token = std::move(next_page_token)};
  for (v1::ListedObject& proto : objects) {
    absl::StatusOr<ObjectDescription> description = FromProto(proto.object());
    if (!description.ok()) return {.status = BadAnswer(description.status().message())};
    if (!result.objects.empty() && proto.key() <= result.objects.back().key) {
      return {.status = BadAnswer("a list out of order")};
    }
    result.objects.push_back({.key = std::move(*proto.mutable_key()),
                              .size_bytes = description->size_bytes,
                              .info = std::move(description->info),
                              .parts = std::move(description->parts)});
  }
  return result;
}

}  // namespace infercache

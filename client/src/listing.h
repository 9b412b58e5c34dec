// A page of keys as the daemon tells it, over either lane.

#pragma once

#include <string>

#include "infercache/client.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

// Its status is a BadAnswer() if the keys are out of order or describe what cannot be.
ListResult TakeListing(google::protobuf::RepeatedPtrField<v1::ListedObject> objects,
                       std::string next_page_token);

}  // namespace infercache

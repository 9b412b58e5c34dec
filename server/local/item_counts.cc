#include "server/local/item_counts.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache::local {

absl::Status CheckItemCount(size_t count) {
  if (count <= kMaxItemsPerFrame) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a request of ", count, " items; the limit is ", kMaxItemsPerFrame));
}

absl::Status CheckItemCounts(const v1::LocalRequest& request) {
  switch (request.body_case()) {
    case v1::LocalRequest::kReserve:
      return CheckItemCount(request.reserve().items_size());
    case v1::LocalRequest::kCommit:
      return CheckItemCount(request.commit().reservations_size());
    case v1::LocalRequest::kAbort:
      return CheckItemCount(request.abort().reservations_size());
    case v1::LocalRequest::kPutInline:
      return CheckItemCount(request.put_inline().items_size());
    case v1::LocalRequest::kLookup:
      return CheckItemCount(request.lookup().keys_size());
    case v1::LocalRequest::kRelease:
      return CheckItemCount(request.release().leases_size());
    case v1::LocalRequest::kRemove:
      return CheckItemCount(request.remove().keys_size());
    case v1::LocalRequest::kGetOrReserve:
      return CheckItemCount(request.get_or_reserve().keys_size());
    case v1::LocalRequest::kGiveUp:
      return CheckItemCount(size_t{0} + request.give_up().claims_size() +
                            request.give_up().requests_size());
    case v1::LocalRequest::kLend:
      return CheckItemCount(request.lend().items_size());
    case v1::LocalRequest::kTakeBack:
      return CheckItemCount(request.take_back().keys_size());
    case v1::LocalRequest::kBorrow:
      return CheckItemCount(request.borrow().keys_size());
    case v1::LocalRequest::kReturnLent:
      return CheckItemCount(size_t{0} + request.return_lent().loans_size() +
                            request.return_lent().allocations_size() +
                            request.return_lent().not_opened_size());
    default:
      return absl::OkStatus();
  }
}

}  // namespace infercache::local

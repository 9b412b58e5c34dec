#include "server/rpc/put.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/part_table.h"
#include "common/status_macros.h"
#include "server/rpc/error.h"
#include "server/store/chain.h"

namespace infercache::rpc {
namespace {

struct CheckedItem {
  ObjectInfo info;
  std::vector<PartSpec> parts;
};

absl::StatusOr<CheckedItem> Check(const PutItemView& view) {
  CheckedItem checked;
  if (const absl::Status key = CheckKey(view.item.key()); !key.ok()) return AtField(key, "key");
  if (view.value.size == 0) {
    return WithReason(absl::InvalidArgumentError("value: empty; an object has at least one byte"),
                      "INVALID_VALUE");
  }
  ASSIGN_OR_RETURN(checked.info, CheckInfo(view.item.info()));
  ASSIGN_OR_RETURN(checked.parts, CheckParts(view.item.parts(), view.value.size));
  return checked;
}

absl::StatusOr<std::vector<CheckedItem>> CheckAll(const std::vector<PutItemView>& items) {
  std::vector<CheckedItem> checked;
  checked.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    auto item = Check(items[i]);
    if (!item.ok()) return AtField(item.status(), absl::StrCat("items[", i, "]"));
    checked.push_back(*std::move(item));
  }
  return checked;
}

// Last to first; but a key's second appearance in the batch comes after its first, because a batch
// means what its items one by one would mean.
std::vector<size_t> StoringOrder(const std::vector<PutItemView>& items) {
  std::vector<size_t> order, repeated;
  absl::flat_hash_set<std::string_view> seen;
  for (size_t i = 0; i < items.size(); ++i) {
    (seen.insert(items[i].item.key()).second ? order : repeated).push_back(i);
  }
  std::reverse(order.begin(), order.end());
  order.insert(order.end(), repeated.begin(), repeated.end());
  return order;
}

// What the use of each is that is stored. The last one ends its request if the client tells of
// chains at all: should it go on later, what continues it says so.
std::vector<store::UseContext> Uses(const Scope& scope, const std::vector<PutItemView>& items,
                                    const std::vector<CheckedItem>& checked) {
  std::vector<store::ChainLink> links;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string& parent = checked[i].info.parent_key;
    links.push_back(
        {HashBytes(items[i].item.key()), parent.empty() ? Hash128() : HashBytes(parent)});
  }
  const std::vector<size_t> roots = store::ChainRoots(links);
  const uint64_t request = scope.ns->NewRequest();
  std::vector<store::UseContext> uses;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string& parent = checked[roots[i]].info.parent_key;
    uses.push_back({.request = request,
                    .ends_request = i + 1 == items.size() && !checked[i].info.parent_key.empty(),
                    .anchor = parent.empty() ? Hash128() : scope.ns->ChainHash(scope.Id(parent))});
  }
  return uses;
}

absl::StatusOr<v1::PutOutcome> StoreItem(const Scope& scope, const PutItemView& view,
                                         const CheckedItem& checked, Pieces pieces,
                                         const store::UseContext& use) {
  const store::PutSpec spec = {.id = scope.Id(view.item.key()),
                               .size_bytes = view.value.size,
                               .parts = checked.parts,
                               .info = &checked.info,
                               .overwrite = view.item.overwrite(),
                               .use = {.request = use.request}};
  ASSIGN_OR_RETURN(std::optional<store::WriteLease> lease, scope.ns->Reserve(spec));
  if (!lease) return v1::PUT_OUTCOME_EXISTS;
  CopyRun(pieces, view.value, lease->bytes());
  ASSIGN_OR_RETURN(const store::CommitOutcome outcome, scope.ns->Commit(*std::move(lease), use));
  return outcome == store::CommitOutcome::kStored ? v1::PUT_OUTCOME_STORED : v1::PUT_OUTCOME_EXISTS;
}

}  // namespace

absl::StatusOr<ObjectInfo> CheckInfo(const v1::ObjectInfo& info) {
  auto checked = FromProto(info);
  if (!checked.ok()) return WithReason(checked.status(), "INVALID_OBJECT_INFO");
  return checked;
}

absl::StatusOr<std::vector<PartSpec>> CheckParts(const PartMessages& parts, uint64_t object_bytes) {
  auto checked = FromProto(parts);
  const absl::Status status =
      checked.ok() ? EncodePartTable(*checked, object_bytes).status() : checked.status();
  if (!status.ok()) return WithReason(status, "INVALID_PARTS");
  return checked;
}

absl::Status ExplainRefusal(const absl::Status& status) {
  return absl::IsResourceExhausted(status) ? WithReason(status, "STORE_FULL") : status;
}

absl::Status StoreItems(const Scope& scope, const PutRequestView& request, Pieces pieces,
                        v1::PutResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<CheckedItem> checked, CheckAll(request.items));
  for (size_t i = 0; i < request.items.size(); ++i) response->add_results();
  const std::vector<store::UseContext> uses = Uses(scope, request.items, checked);
  for (const size_t i : StoringOrder(request.items)) {
    v1::PutResult& result = *response->mutable_results(i);
    const auto outcome = StoreItem(scope, request.items[i], checked[i], pieces, uses[i]);
    if (outcome.ok()) {
      result.set_outcome(*outcome);
      continue;
    }
    result.set_outcome(v1::PUT_OUTCOME_REFUSED);
    result.set_code(static_cast<int>(outcome.status().code()));
    result.set_message(std::string(outcome.status().message()));
  }
  return absl::OkStatus();
}

}  // namespace infercache::rpc

#include "client/python/ext/failures.h"

#include <nanobind/stl/string.h>

#include "client/python/ext/errors.h"

namespace infercache::python {

namespace nb = nanobind;

nb::object FailureObject(const Failure* failure) {
  if (failure == nullptr) return nb::none();
  return nb::module_::import_("infercache._errors").attr("Failure")(failure->code, failure->reason);
}

nb::tuple Answer(const char* outcome, const absl::Status& status) {
  return nb::make_tuple(outcome, CodeName(status), std::string(status.message()));
}

nb::tuple PutAnswer(const PutResult& result) {
  return Answer(result.outcome == PutOutcome::kStored   ? "stored"
                : result.outcome == PutOutcome::kExists ? "exists"
                                                        : "refused",
                result.status);
}

nb::list FlagList(const KeysResult& result, size_t count) {
  nb::list flags;
  for (size_t i = 0; i < count; ++i) {
    flags.append(nb::bool_(result.status.ok() && i < result.flags.size() && result.flags[i]));
  }
  return flags;
}

}  // namespace infercache::python

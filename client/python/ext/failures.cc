#include "client/python/ext/failures.h"

#include <nanobind/stl/string.h>

namespace infercache::python {

namespace nb = nanobind;

nb::object FailureObject(const Failure* failure) {
  if (failure == nullptr) return nb::none();
  return nb::module_::import_("infercache._errors").attr("Failure")(failure->code, failure->reason);
}

nb::list FlagList(const KeysResult& result, size_t count) {
  nb::list flags;
  for (size_t i = 0; i < count; ++i) {
    flags.append(nb::bool_(result.status.ok() && i < result.flags.size() && result.flags[i]));
  }
  return flags;
}

}  // namespace infercache::python

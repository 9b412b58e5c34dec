#include "client/python/ext/errors.h"

#include <nanobind/stl/string.h>

namespace infercache::python {
namespace {

namespace nb = nanobind;

// Looked up when they are thrown, so that nothing of this library outlives the interpreter.
nb::object ErrorType(const char* name) {
  return nb::module_::import_("infercache._errors").attr(name);
}

[[noreturn]] void Throw(const char* type, nb::object error) {
  PyErr_SetObject(ErrorType(type).ptr(), error.ptr());
  throw nb::python_error();
}

[[noreturn]] void ThrowStatus(const char* type, const absl::Status& status) {
  Throw(type, ErrorType(type)(CodeName(status), std::string(status.message()).c_str()));
}

}  // namespace

void ThrowClosed(const char* what) { Throw("ClosedError", nb::str(what)); }

void ThrowForked(const char* what) { Throw("ForkedError", nb::str(what)); }

void ThrowDaemonError(const absl::Status& status) { ThrowStatus("DaemonError", status); }

void ThrowDeviceError(const absl::Status& status) { ThrowStatus("DeviceError", status); }

std::string CodeName(const absl::Status& status) { return absl::StatusCodeToString(status.code()); }

void ThrowIfCallersMistake(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status) && !absl::IsOutOfRange(status)) return;
  throw nb::value_error(std::string(status.message()).c_str());
}

}  // namespace infercache::python

#include "common/cuda/driver.h"

#include <dlfcn.h>

#include <cctype>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace infercache::cuda {
namespace {

// The two forms of the one symbol that is looked up by name: since CUDA 12, and since 11.3.
using GetProcAddressV2 = Result (*)(const char* symbol, void** function, int version,
                                    uint64_t flags, int* found);
using GetProcAddressV1 = Result (*)(const char* symbol, void** function, int version,
                                    uint64_t flags);

constexpr char kUuidPattern[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

absl::Status CannotUse(std::string_view library, std::string_view why,
                       absl::StatusCode code = absl::StatusCode::kUnimplemented) {
  return absl::Status(
      code, absl::StrCat("no CUDA driver: ", absl::string_view(library.data(), library.size()),
                         ": ", absl::string_view(why.data(), why.size())));
}

absl::Status FindEntryPoints(const char* name, void* library, Api* api) {
  const auto v2 = reinterpret_cast<GetProcAddressV2>(dlsym(library, "cuGetProcAddress_v2"));
  const auto v1 = reinterpret_cast<GetProcAddressV1>(dlsym(library, "cuGetProcAddress"));
  if (v1 == nullptr && v2 == nullptr) {
    return CannotUse(name, "it has no cuGetProcAddress, which came with CUDA 11.3");
  }
  std::string missing;
  const bool all = ForEachEntryPoint([&](const char* symbol, int version, auto member) {
    void* function = nullptr;
    const Result result = v2 != nullptr ? v2(symbol, &function, version, 0, nullptr)
                                        : v1(symbol, &function, version, 0);
    if (result != kSuccess || function == nullptr) {
      missing = absl::StrCat("it has no ", symbol, " of version ", version);
      return false;
    }
    std::memcpy(&(api->*member), &function, sizeof function);
    return true;
  });
  return all ? absl::OkStatus() : CannotUse(name, missing);
}

absl::StatusCode CodeOf(Result result) {
  if (IsOfCaptures(result)) return absl::StatusCode::kFailedPrecondition;
  switch (result) {
    case kOutOfMemory:
      return absl::StatusCode::kResourceExhausted;
    case kStubLibrary:
    case kCallRequiresNewerDriver:
    case kNoDevice:
    case kNotSupported:
    case kSystemDriverMismatch:
      return absl::StatusCode::kUnimplemented;
    case kInvalidValue:
    case kInvalidDevice:
    case kInvalidHandle:
      return absl::StatusCode::kInvalidArgument;
    case kNotReady:
    case kSystemNotReady:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::StatusOr<DeviceInfo> Describe(const Driver& driver, int ordinal) {
  const Api& api = driver.api();
  DeviceInfo info;
  RETURN_IF_ERROR(driver.Check(api.device_get(&info.ordinal, ordinal), "cuDeviceGet"));
  Uuid uuid;
  RETURN_IF_ERROR(driver.Check(api.device_get_uuid(&uuid, info.ordinal), "cuDeviceGetUuid"));
  info.uuid = FormatUuid(uuid);
  char name[256] = {};
  RETURN_IF_ERROR(
      driver.Check(api.device_get_name(name, sizeof name - 1, info.ordinal), "cuDeviceGetName"));
  info.name = name;
  size_t bytes = 0;
  RETURN_IF_ERROR(driver.Check(api.device_total_mem(&bytes, info.ordinal), "cuDeviceTotalMem"));
  info.total_bytes = bytes;
  info.shareable = true;
  for (const int attribute : {kAttributeVirtualMemory, kAttributePosixFdHandles}) {
    int value = 0;
    RETURN_IF_ERROR(driver.Check(api.device_get_attribute(&value, attribute, info.ordinal),
                                 "cuDeviceGetAttribute"));
    info.shareable &= value != 0;
  }
  return info;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Driver>> Driver::Load(const char* library) {
  void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* const why = dlerror();
    return CannotUse(library, why == nullptr ? "dlopen failed" : why);
  }
  const std::shared_ptr<Driver> driver(new Driver);
  RETURN_IF_ERROR(FindEntryPoints(library, handle, &driver->api_));
  // Whatever else it fails with: there is nothing here to be used.
  const absl::Status begun = driver->Check(driver->api_.init(0), "cuInit");
  if (!begun.ok()) {
    return CannotUse(library, std::string_view(begun.message().data(), begun.message().size()),
                     absl::IsUnavailable(begun) ? begun.code() : absl::StatusCode::kUnimplemented);
  }
  RETURN_IF_ERROR(
      driver->Check(driver->api_.driver_get_version(&driver->version_), "cuDriverGetVersion"));
  return driver;
}

absl::Status Driver::Check(Result result, std::string_view call) const {
  if (result == kSuccess) return absl::OkStatus();
  const char* name = nullptr;
  if (api_.get_error_name(result, &name) != kSuccess || name == nullptr) name = "unknown error";
  return absl::Status(CodeOf(result), absl::StrCat(absl::string_view(call.data(), call.size()),
                                                   ": ", name, " (", result, ")"));
}

OutsideOfCaptures::OutsideOfCaptures(const Driver& driver)
    : driver_(driver), mode_(kCaptureModeRelaxed) {
  // It fails in a driver that is shut down alone, where nothing else works either.
  (void)driver_.api().thread_exchange_stream_capture_mode(&mode_);
}

OutsideOfCaptures::~OutsideOfCaptures() {
  (void)driver_.api().thread_exchange_stream_capture_mode(&mode_);
}

std::string FormatUuid(const Uuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  size_t digit = 0;
  for (const char* c = kUuidPattern; *c != '\0'; ++c) {
    if (*c == '-') {
      text += '-';
      continue;
    }
    const auto byte = static_cast<unsigned char>(uuid.bytes[digit / 2]);
    text += kDigits[digit % 2 == 0 ? byte >> 4 : byte & 0xf];
    ++digit;
  }
  return text;
}

absl::StatusOr<Uuid> ParseUuid(std::string_view text) {
  const auto wrong = [text] {
    return absl::InvalidArgumentError(absl::StrCat("'", std::string(text.substr(0, 64)),
                                                   "' is no GPU's UUID: it looks like GPU-",
                                                   kUuidPattern));
  };
  // A slice of a device (MIG) has a UUID of its own, and another prefix.
  if (!text.starts_with("GPU-") && !text.starts_with("MIG-")) return wrong();
  text.remove_prefix(4);
  if (text.size() != std::strlen(kUuidPattern)) return wrong();
  Uuid uuid = {};
  size_t digit = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (kUuidPattern[i] == '-') {
      if (c != '-') return wrong();
      continue;
    }
    if (std::isxdigit(c) == 0) return wrong();
    const int value = c <= '9' ? c - '0' : std::tolower(c) - 'a' + 10;
    char& byte = uuid.bytes[digit / 2];
    byte = static_cast<char>(digit % 2 == 0 ? value << 4 : (byte & 0xf0) | value);
    ++digit;
  }
  return uuid;
}

absl::StatusOr<std::vector<DeviceInfo>> ListDevices(const Driver& driver) {
  int count = 0;
  RETURN_IF_ERROR(driver.Check(driver.api().device_get_count(&count), "cuDeviceGetCount"));
  std::vector<DeviceInfo> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    ASSIGN_OR_RETURN(DeviceInfo info, Describe(driver, ordinal));
    devices.push_back(std::move(info));
  }
  return devices;
}

absl::StatusOr<DeviceInfo> FindDevice(const Driver& driver, std::string_view name) {
  ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices(driver));
  std::string all;
  for (const DeviceInfo& device : devices) absl::StrAppend(&all, " ", device.uuid);
  if (name == "auto") {
    if (devices.size() == 1) return devices.front();
    return absl::NotFoundError(
        absl::StrCat("'auto' stands for the only GPU, and there are ", devices.size(), ":", all));
  }
  ASSIGN_OR_RETURN(const Uuid uuid, ParseUuid(name));
  const std::string wanted = FormatUuid(uuid);
  for (const DeviceInfo& device : devices) {
    if (device.uuid == wanted) return device;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no GPU ", wanted, " for this process, which sees:", all));
}

}  // namespace infercache::cuda

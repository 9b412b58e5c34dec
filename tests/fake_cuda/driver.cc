// The entry points, which are found through cuGetProcAddress alone.

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "tests/fake_cuda/calls.h"
#include "tests/fake_cuda/events.h"

namespace infercache::fake_cuda {
namespace {

using cuda::AccessDescription;
using cuda::AllocationProperties;
using cuda::Api;
using cuda::Context;
using cuda::Device;
using cuda::Stream;
using cuda::Uuid;

// A context is a pointer that nobody follows: its device's number and one.
Context ContextOf(uint32_t device) {
  return reinterpret_cast<Context>(static_cast<uintptr_t>(device) + 1);
}

Result Init(unsigned flags) { return flags == 0 ? Process::Init() : cuda::kInvalidValue; }

Result DriverGetVersion(int* version) {
  *version = 12080;
  return cuda::kSuccess;
}

Result GetErrorName(Result error, const char** name) {
  switch (error) {
    case cuda::kInvalidValue:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case cuda::kOutOfMemory:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      break;
    case cuda::kNotInitialized:
      *name = "CUDA_ERROR_NOT_INITIALIZED";
      break;
    case cuda::kNoDevice:
      *name = "CUDA_ERROR_NO_DEVICE";
      break;
    case cuda::kInvalidDevice:
      *name = "CUDA_ERROR_INVALID_DEVICE";
      break;
    case cuda::kInvalidContext:
      *name = "CUDA_ERROR_INVALID_CONTEXT";
      break;
    case cuda::kOperatingSystem:
      *name = "CUDA_ERROR_OPERATING_SYSTEM";
      break;
    case cuda::kInvalidHandle:
      *name = "CUDA_ERROR_INVALID_HANDLE";
      break;
    case cuda::kNotReady:
      *name = "CUDA_ERROR_NOT_READY";
      break;
    case cuda::kIllegalAddress:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      break;
    case cuda::kNotPermitted:
      *name = "CUDA_ERROR_NOT_PERMITTED";
      break;
    case cuda::kNotSupported:
      *name = "CUDA_ERROR_NOT_SUPPORTED";
      break;
    case cuda::kSystemNotReady:
      *name = "CUDA_ERROR_SYSTEM_NOT_READY";
      break;
    case cuda::kStreamCaptureUnsupported:
      *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
      break;
    case cuda::kStreamCaptureImplicit:
      *name = "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT";
      break;
    default:
      *name = nullptr;
      return cuda::kInvalidValue;
  }
  return cuda::kSuccess;
}

Result DeviceGetCount(int* count) {
  return With([&](Process& process) {
    *count = static_cast<int>(process.state().device_count);
    return cuda::kSuccess;
  });
}
Result DeviceGet(Device* device, int ordinal) {
  return WithDevice(ordinal, [&](Process&) {
    *device = ordinal;
    return cuda::kSuccess;
  });
}
Result DeviceGetName(char* name, int length, Device device) {
  return WithDevice(device, [&](Process&) {
    std::snprintf(name, static_cast<size_t>(length), "Fake GPU");
    return cuda::kSuccess;
  });
}
Result DeviceGetUuid(Uuid* uuid, Device device) {
  return WithDevice(device, [&](Process&) {
    std::memcpy(uuid->bytes, "fake-cuda-gpu-\0", 16);
    uuid->bytes[15] = static_cast<char>(device);
    return cuda::kSuccess;
  });
}
Result DeviceGetAttribute(int* value, int attribute, Device device) {
  return WithDevice(device, [&](Process&) {
    switch (attribute) {
      case cuda::kAttributeVirtualMemory:
      case cuda::kAttributePosixFdHandles:
      case cuda::kAttributeGpuDirectRdma:
      case cuda::kAttributeReadOnlyHostRegister:
        *value = 1;
        return cuda::kSuccess;
      default:
        return cuda::kInvalidValue;
    }
  });
}
Result DeviceTotalMem(size_t* bytes, Device device) {
  return WithDevice(device, [&](Process& process) {
    *bytes = process.state().device_bytes;
    return cuda::kSuccess;
  });
}

Result MemGetAllocationGranularity(size_t* bytes, const AllocationProperties* properties, int) {
  return WithDevice(properties->location.id, [&](Process&) {
    *bytes = kGranularity;
    return cuda::kSuccess;
  });
}
Result MemCreate(AllocationHandle* handle, size_t bytes, const AllocationProperties* properties,
                 unsigned long long flags) {
  if (properties->type != cuda::kAllocationPinned ||
      properties->location.type != cuda::kLocationDevice || flags != 0) {
    return cuda::kInvalidValue;
  }
  return WithDevice(properties->location.id, [&](Process& process) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    process.state().calls.creates.fetch_add(1);
    WaitWhile(process.state().hangs.creates);
    return process.Create(handle, bytes, static_cast<uint32_t>(properties->location.id),
                          (properties->requested_handle_types & cuda::kHandlePosixFd) != 0);
  });
}
Result MemRelease(AllocationHandle handle) {
  return WithUncaptured([&](Process& process) {
    process.state().calls.releases.fetch_add(1);
    WaitWhile(process.state().hangs.releases);
    return process.Release(handle);
  });
}
Result MemExportToShareableHandle(void* shareable, AllocationHandle handle, int type,
                                  unsigned long long flags) {
  return WithUncaptured([&](Process& process) {
    process.state().calls.exports.fetch_add(1);
    if (const Result refused = RefusedExport(process); refused != cuda::kSuccess) return refused;
    const std::shared_ptr<Memory> memory = process.Find(handle);
    if (memory == nullptr || !memory->exportable || type != cuda::kHandlePosixFd || flags != 0) {
      return cuda::kInvalidValue;
    }
    const int fd = fcntl(memory->fd.get(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return cuda::kOperatingSystem;
    std::memcpy(shareable, &fd, sizeof fd);
    return cuda::kSuccess;
  });
}
Result MemImportFromShareableHandle(AllocationHandle* handle, void* shareable, int type) {
  return WithUncaptured([&](Process& process) {
    process.state().calls.imports.fetch_add(1);
    if (process.state().faults.refuse_imports.load() != 0) return cuda::kNotPermitted;
    if (type != cuda::kHandlePosixFd) return cuda::kInvalidValue;
    return process.Import(handle, static_cast<int>(reinterpret_cast<uintptr_t>(shareable)));
  });
}
Result MemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return With([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    *total_bytes = process.state().device_bytes;
    *free_bytes = *total_bytes - process.file().UseOf(CurrentContexts().back()).bytes;
    return cuda::kSuccess;
  });
}
// Copies are as fast without it, but are waited for by who asks for them.
Result MemHostRegister(void* memory, size_t bytes, unsigned flags) {
  constexpr unsigned kKnown = cuda::kHostRegisterPortable | cuda::kHostRegisterReadOnly;
  if (memory == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return cuda::kInvalidValue;
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    if (process.state().faults.refuse_registers.load() != 0) return cuda::kNotPermitted;
    return process.RegisterHost(memory, bytes, (flags & cuda::kHostRegisterPortable) != 0);
  });
}
Result MemHostUnregister(void* memory) {
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    return process.UnregisterHost(memory);
  });
}
Result MemAddressReserve(DevicePointer* pointer, size_t bytes, size_t, DevicePointer wanted,
                         unsigned long long flags) {
  if (wanted != 0 || flags != 0) return cuda::kInvalidValue;
  return WithUncaptured([&](Process& process) { return process.ReserveAddress(pointer, bytes); });
}
Result MemAddressFree(DevicePointer pointer, size_t bytes) {
  return WithUncaptured([&](Process& process) { return process.FreeAddress(pointer, bytes); });
}
Result CheckMaps(Process& process) {
  const Faults& faults = process.state().faults;
  if (faults.refuse_maps.load() != 0) return cuda::kOutOfMemory;
  return faults.maps_need_context.load() == 0 ? cuda::kSuccess : process.CheckContext();
}
Result MemMap(DevicePointer pointer, size_t bytes, size_t offset, AllocationHandle handle,
              unsigned long long flags) {
  if (offset != 0 || flags != 0) return cuda::kInvalidValue;
  return WithUncaptured([&](Process& process) {
    process.state().calls.maps.fetch_add(1);
    if (const Result may = CheckMaps(process); may != cuda::kSuccess) return may;
    return process.Map(pointer, bytes, handle);
  });
}
Result MemUnmap(DevicePointer pointer, size_t bytes) {
  return WithUncaptured([&](Process& process) {
    process.state().calls.unmaps.fetch_add(1);
    WaitWhile(process.state().faults.unmaps_stuck);
    return process.Unmap(pointer, bytes);
  });
}
Result MemSetAccess(DevicePointer pointer, size_t bytes, const AccessDescription* descriptions,
                    size_t count) {
  if (count != 1 || descriptions->location.type != cuda::kLocationDevice) {
    return cuda::kInvalidValue;
  }
  return WithDevice(descriptions->location.id, [&](Process& process) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    if (const Result may = CheckMaps(process); may != cuda::kSuccess) return may;
    return process.SetAccess(pointer, bytes, static_cast<uint32_t>(descriptions->location.id),
                             descriptions->flags);
  });
}

Result MemRetainAllocationHandle(AllocationHandle* handle, void* address) {
  return With([&](Process& process) {
    return process.Retain(handle, reinterpret_cast<uintptr_t>(address));
  });
}
// With f(process, range) for what is at `pointer`, in a context.
template <class F>
Result WithRange(DevicePointer pointer, F f) {
  return With([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    Process::Range range;
    return process.FindRange(pointer, &range) ? f(process, range) : cuda::kInvalidValue;
  });
}
Result MemGetAddressRange(DevicePointer* base, size_t* bytes, DevicePointer pointer) {
  return WithRange(pointer, [&](Process&, const Process::Range& range) {
    *base = range.base;
    *bytes = range.bytes;
    return cuda::kSuccess;
  });
}
Result PointerGetAttribute(void* value, int attribute, DevicePointer pointer) {
  return WithRange(pointer, [&](Process&, const Process::Range& range) {
    int number = 0;
    if (attribute == cuda::kPointerDeviceOrdinal) {
      number = static_cast<int>(range.device);
    } else if (attribute == cuda::kPointerIsLegacyIpcCapable) {
      number = range.kind == Kind::kLegacy ? 1 : 0;
    } else {
      return cuda::kInvalidValue;
    }
    std::memcpy(value, &number, sizeof number);
    return cuda::kSuccess;
  });
}
Result IpcGetMemHandle(cuda::IpcHandle* handle, DevicePointer pointer) {
  return WithRange(pointer, [&](Process& process, const Process::Range&) {
    return process.GetIpcHandle(handle, pointer);
  });
}
Result IpcOpenMemHandle(DevicePointer* pointer, cuda::IpcHandle handle, unsigned flags) {
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    process.state().calls.ipc_opens.fetch_add(1);
    if (flags != cuda::kIpcLazyEnablePeerAccess) return cuda::kInvalidValue;
    return process.OpenIpcHandle(pointer, handle);
  });
}
Result IpcCloseMemHandle(DevicePointer pointer) {
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    process.state().calls.ipc_closes.fetch_add(1);
    WaitWhile(process.state().faults.unmaps_stuck);
    return process.CloseIpcHandle(pointer);
  });
}

// --- For tests, which look them up as the others are: the daemon and its clients allocate nothing
// this way, and their users do.
Result MemAlloc(DevicePointer* pointer, size_t bytes) {
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    return process.Alloc(pointer, bytes, CurrentContexts().back());
  });
}
Result MemFree(DevicePointer pointer) {
  return WithUncaptured([&](Process& process) { return process.Free(pointer); });
}

Result DevicePrimaryCtxRetain(Context* context, Device device) {
  return WithDevice(device, [&](Process& process) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    *context = ContextOf(static_cast<uint32_t>(device));
    return process.RetainContext(static_cast<uint32_t>(device));
  });
}
Result DevicePrimaryCtxRelease(Device device) {
  return WithDevice(device, [&](Process& process) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    return process.ReleaseContext(static_cast<uint32_t>(device));
  });
}
Result CtxPushCurrent(Context context) {
  return With([&](Process&) {
    if (context == nullptr) return cuda::kInvalidContext;
    CurrentContexts().push_back(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(context) - 1));
    return cuda::kSuccess;
  });
}
Result CtxPopCurrent(Context* context) {
  return With([&](Process&) {
    if (CurrentContexts().empty()) return cuda::kInvalidContext;
    *context = ContextOf(CurrentContexts().back());
    CurrentContexts().pop_back();
    return cuda::kSuccess;
  });
}

void Copy(Process& process, FakeStream& stream, std::byte* to, const std::byte* from, size_t bytes,
          std::shared_ptr<Shadow> written, std::shared_ptr<Shadow> read) {
  stream.Add([&process, device = stream.device(), to, from, bytes, written = std::move(written),
              read = std::move(read)] {
    const bool may = (written == nullptr || written->access.load() == cuda::kAccessReadWrite) &&
                     (read == nullptr || read->access.load() != 0);
    if (!may) return process.KillContext(device);
    if (bytes > 0) std::memmove(to, from, bytes);
  });
}

// Calls f(piece, offset, bytes) for what is mapped from `address` on, mapping by mapping. False:
// something is not.
template <class F>
bool ForEachPiece(Process& process, DevicePointer address, size_t bytes, F f) {
  for (size_t offset = 0; offset < bytes || bytes == 0;) {
    const size_t size = std::min(bytes - offset, process.MappedFrom(address + offset));
    std::optional<Piece> piece = process.PieceAt(address + offset, size);
    if (!piece.has_value() || (size == 0 && bytes > 0)) return false;
    f(*std::move(piece), offset, size);
    if (bytes == 0) break;
    offset += size;
  }
  return true;
}

Result MemcpyHtoDAsync(DevicePointer to, const void* from, size_t bytes, Stream stream) {
  return WithStream(stream, [&](Process& process, FakeStream& on) {
    const bool all =
        ForEachPiece(process, to, bytes, [&](Piece target, size_t offset, size_t size) {
          Copy(process, on, target.bytes, static_cast<const std::byte*>(from) + offset, size,
               target.shadow, nullptr);
        });
    if (all && !process.IsRegistered(from, bytes)) on.Synchronize();
    return all ? cuda::kSuccess : cuda::kInvalidValue;
  });
}
Result MemcpyDtoHAsync(void* to, DevicePointer from, size_t bytes, Stream stream) {
  return WithStream(stream, [&](Process& process, FakeStream& on) {
    const bool all =
        ForEachPiece(process, from, bytes, [&](Piece source, size_t offset, size_t size) {
          Copy(process, on, static_cast<std::byte*>(to) + offset, source.bytes, size, nullptr,
               source.shadow);
        });
    if (all && !process.IsRegistered(to, bytes)) {
      process.state().calls.pageable_copies.fetch_add(1);
      on.Synchronize();
    }
    return all ? cuda::kSuccess : cuda::kInvalidValue;
  });
}
Result MemcpyDtoDAsync(DevicePointer to, DevicePointer from, size_t bytes, Stream stream) {
  return WithStream(stream, [&](Process& process, FakeStream& on) {
    auto target = process.PieceAt(to, bytes);
    auto source = process.PieceAt(from, bytes);
    if (!target.has_value() || !source.has_value()) return cuda::kInvalidValue;
    Copy(process, on, target->bytes, source->bytes, bytes, target->shadow, source->shadow);
    return cuda::kSuccess;
  });
}
Result StreamCreate(Stream* stream, unsigned) {
  return WithUncaptured([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    std::atomic<uint32_t>& left = process.state().rare_faults.streams_to_make;
    if (left.load() == 1) return cuda::kOutOfMemory;
    if (left.load() > 1) left.fetch_sub(1);
    *stream = reinterpret_cast<Stream>(process.NewStream());
    return cuda::kSuccess;
  });
}
Result StreamDestroy(Stream stream) {
  return WithUncaptured([&](Process& process) { return process.DestroyStream(stream); });
}
Result StreamSynchronize(Stream stream) {
  return WithStream(stream, [](Process& process, FakeStream& on) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    const uint32_t device = on.device();
    on.Synchronize();
    return process.dead(device) ? cuda::kIllegalAddress : cuda::kSuccess;
  });
}
Result StreamQuery(Stream stream) {
  return WithStream(stream, [](Process& process, FakeStream& on) {
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    return on.idle() ? cuda::kSuccess : cuda::kNotReady;
  });
}
Result StreamIsCapturing(Stream stream, int* capture) {
  return WithStream(stream, [&](Process& process, FakeStream&) {
    const uint32_t which = process.state().faults.streams_capture.load();
    if (which == 2 && stream == nullptr) return cuda::kStreamCaptureImplicit;
    *capture = which == 1 ? 1 : 0;
    return cuda::kSuccess;
  });
}
Result ThreadExchangeStreamCaptureMode(int* mode) {
  if (*mode < cuda::kCaptureModeGlobal || *mode > cuda::kCaptureModeRelaxed) {
    return cuda::kInvalidValue;
  }
  std::swap(*mode, CaptureMode());
  return cuda::kSuccess;
}

constexpr Api kApi = {
    .init = Init,
    .driver_get_version = DriverGetVersion,
    .get_error_name = GetErrorName,
    .device_get_count = DeviceGetCount,
    .device_get = DeviceGet,
    .device_get_name = DeviceGetName,
    .device_get_uuid = DeviceGetUuid,
    .device_get_attribute = DeviceGetAttribute,
    .device_total_mem = DeviceTotalMem,
    .mem_get_allocation_granularity = MemGetAllocationGranularity,
    .mem_create = MemCreate,
    .mem_release = MemRelease,
    .mem_export_to_shareable_handle = MemExportToShareableHandle,
    .mem_import_from_shareable_handle = MemImportFromShareableHandle,
    .mem_address_reserve = MemAddressReserve,
    .mem_address_free = MemAddressFree,
    .mem_map = MemMap,
    .mem_unmap = MemUnmap,
    .mem_set_access = MemSetAccess,
    .mem_alloc = MemAlloc,
    .mem_free = MemFree,
    .mem_retain_allocation_handle = MemRetainAllocationHandle,
    .mem_get_address_range = MemGetAddressRange,
    .pointer_get_attribute = PointerGetAttribute,
    .ipc_get_mem_handle = IpcGetMemHandle,
    .ipc_open_mem_handle = IpcOpenMemHandle,
    .ipc_close_mem_handle = IpcCloseMemHandle,
    .device_primary_ctx_retain = DevicePrimaryCtxRetain,
    .device_primary_ctx_release = DevicePrimaryCtxRelease,
    .ctx_push_current = CtxPushCurrent,
    .ctx_pop_current = CtxPopCurrent,
    .memcpy_htod_async = MemcpyHtoDAsync,
    .memcpy_dtoh_async = MemcpyDtoHAsync,
    .memcpy_dtod_async = MemcpyDtoDAsync,
    .stream_create = StreamCreate,
    .stream_destroy = StreamDestroy,
    .stream_synchronize = StreamSynchronize,
    .stream_query = StreamQuery,
    .stream_is_capturing = StreamIsCapturing,
    .thread_exchange_stream_capture_mode = ThreadExchangeStreamCaptureMode,
    .event_create = EventCreate,
    .event_destroy = EventDestroy,
    .event_record = EventRecord,
    .event_query = EventQuery,
    .event_synchronize = EventSynchronize,
    .event_elapsed_time = EventElapsedTime,
    .mem_get_info = MemGetInfo,
    .mem_host_register = MemHostRegister,
    .mem_host_unregister = MemHostUnregister,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) Result cuGetProcAddress_v2(const char* symbol,
                                                                             void** function,
                                                                             int version, uint64_t,
                                                                             int* found) {
  *function = nullptr;
  cuda::ForEachEntryPoint([&](const char* name, int since, auto member) {
    if (std::string_view(name) == symbol && version >= since) {
      const auto entry = kApi.*member;
      std::memcpy(function, &entry, sizeof entry);
    }
    return *function == nullptr;
  });
  if (found != nullptr) *found = *function == nullptr ? 1 : 0;
  return *function == nullptr ? cuda::kNotFound : cuda::kSuccess;
}

}  // namespace infercache::fake_cuda

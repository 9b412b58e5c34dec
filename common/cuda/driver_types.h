// The part of CUDA's driver interface that is used here, in our own words: nothing of CUDA is
// needed to build. tests/cuda/header_test.cc compares it with the real header where there is one.

#pragma once

#include <cstddef>
#include <cstdint>

namespace infercache::cuda {

// A CUresult.
using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kOutOfMemory = 2;
inline constexpr Result kNotInitialized = 3;
inline constexpr Result kStubLibrary = 34;
inline constexpr Result kCallRequiresNewerDriver = 36;
inline constexpr Result kNoDevice = 100;
inline constexpr Result kInvalidDevice = 101;
inline constexpr Result kInvalidContext = 201;
inline constexpr Result kOperatingSystem = 304;
inline constexpr Result kInvalidHandle = 400;
inline constexpr Result kNotFound = 500;
inline constexpr Result kNotReady = 600;
inline constexpr Result kIllegalAddress = 700;
inline constexpr Result kContextIsDestroyed = 709;
inline constexpr Result kHostMemoryAlreadyRegistered = 712;
inline constexpr Result kHostMemoryNotRegistered = 713;
inline constexpr Result kNotPermitted = 800;
inline constexpr Result kNotSupported = 801;
inline constexpr Result kSystemNotReady = 802;
inline constexpr Result kSystemDriverMismatch = 803;
// The first and the last of those that say that a graph is being captured.
inline constexpr Result kStreamCaptureUnsupported = 900;
inline constexpr Result kStreamCaptureImplicit = 906;
inline constexpr Result kStreamCaptureWrongThread = 908;

constexpr bool IsOfCaptures(Result result) {
  return result >= kStreamCaptureUnsupported && result <= kStreamCaptureWrongThread;
}

using Device = int;  // an ordinal: means something in this process only
using DevicePointer = unsigned long long;
using AllocationHandle = unsigned long long;
using Context = struct ContextOfDriver*;
using Stream = struct StreamOfDriver*;  // null = the default one
using Event = struct EventOfDriver*;

struct Uuid {
  char bytes[16];
};

inline constexpr int kLocationDevice = 1;
inline constexpr int kAllocationPinned = 1;
inline constexpr int kHandlePosixFd = 1;
inline constexpr int kAccessRead = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kGranularityMinimum = 0;
inline constexpr int kAttributeVirtualMemory = 102;
inline constexpr int kAttributePosixFdHandles = 103;
inline constexpr int kAttributeGpuDirectRdma = 110;  // that memory of cuMemCreate may be used so
inline constexpr int kAttributeReadOnlyHostRegister = 113;
inline constexpr unsigned kHostRegisterPortable = 1;  // for every context
inline constexpr unsigned kHostRegisterReadOnly = 8;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr int kCaptureModeGlobal = 0;
inline constexpr int kCaptureModeRelaxed = 2;
inline constexpr int kPointerDeviceOrdinal = 9;
inline constexpr int kPointerIsLegacyIpcCapable = 10;
inline constexpr unsigned kIpcLazyEnablePeerAccess = 1;

// Names an allocation to other processes: its base, whatever pointer into it was asked for.
struct IpcHandle {
  char bytes[64];
};

struct MemoryLocation {
  int type;
  int id;
};

struct AllocationProperties {
  int type;
  int requested_handle_types;
  MemoryLocation location;
  void* win32_handle_meta_data;
  struct {
    unsigned char compression_type;
    unsigned char gpu_direct_rdma_capable;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};

struct AccessDescription {
  MemoryLocation location;
  int flags;
};

// Every entry point that is called, and no other.
struct Api {
  Result (*init)(unsigned flags);
  Result (*driver_get_version)(int* version);
  Result (*get_error_name)(Result error, const char** name);

  Result (*device_get_count)(int* count);
  Result (*device_get)(Device* device, int ordinal);
  Result (*device_get_name)(char* name, int length, Device device);
  Result (*device_get_uuid)(Uuid* uuid, Device device);
  Result (*device_get_attribute)(int* value, int attribute, Device device);
  Result (*device_total_mem)(size_t* bytes, Device device);

  Result (*mem_get_allocation_granularity)(size_t* bytes, const AllocationProperties* properties,
                                           int option);
  Result (*mem_create)(AllocationHandle* handle, size_t bytes,
                       const AllocationProperties* properties, unsigned long long flags);
  Result (*mem_release)(AllocationHandle handle);
  Result (*mem_export_to_shareable_handle)(void* shareable, AllocationHandle handle, int type,
                                           unsigned long long flags);
  Result (*mem_import_from_shareable_handle)(AllocationHandle* handle, void* shareable, int type);
  Result (*mem_address_reserve)(DevicePointer* pointer, size_t bytes, size_t alignment,
                                DevicePointer wanted, unsigned long long flags);
  Result (*mem_address_free)(DevicePointer pointer, size_t bytes);
  Result (*mem_map)(DevicePointer pointer, size_t bytes, size_t offset, AllocationHandle handle,
                    unsigned long long flags);
  Result (*mem_unmap)(DevicePointer pointer, size_t bytes);
  Result (*mem_set_access)(DevicePointer pointer, size_t bytes,
                           const AccessDescription* descriptions, size_t count);

  Result (*mem_alloc)(DevicePointer* pointer, size_t bytes);
  Result (*mem_free)(DevicePointer pointer);
  Result (*mem_retain_allocation_handle)(AllocationHandle* handle, void* address);
  Result (*mem_get_address_range)(DevicePointer* base, size_t* bytes, DevicePointer pointer);
  Result (*pointer_get_attribute)(void* value, int attribute, DevicePointer pointer);
  Result (*ipc_get_mem_handle)(IpcHandle* handle, DevicePointer pointer);
  Result (*ipc_open_mem_handle)(DevicePointer* pointer, IpcHandle handle, unsigned flags);
  Result (*ipc_close_mem_handle)(DevicePointer pointer);

  Result (*device_primary_ctx_retain)(Context* context, Device device);
  Result (*device_primary_ctx_release)(Device device);
  Result (*ctx_push_current)(Context context);
  Result (*ctx_pop_current)(Context* context);

  Result (*memcpy_htod_async)(DevicePointer to, const void* from, size_t bytes, Stream stream);
  Result (*memcpy_dtoh_async)(void* to, DevicePointer from, size_t bytes, Stream stream);
  Result (*memcpy_dtod_async)(DevicePointer to, DevicePointer from, size_t bytes, Stream stream);
  Result (*stream_create)(Stream* stream, unsigned flags);
  Result (*stream_destroy)(Stream stream);
  Result (*stream_synchronize)(Stream stream);
  Result (*stream_query)(Stream stream);
  Result (*stream_is_capturing)(Stream stream, int* capture);  // 0 = it does what it is told
  Result (*thread_exchange_stream_capture_mode)(int* mode);

  Result (*event_create)(Event* event, unsigned flags);
  Result (*event_destroy)(Event event);
  Result (*event_record)(Event event, Stream stream);
  Result (*event_query)(Event event);
  Result (*event_synchronize)(Event event);
  Result (*event_elapsed_time)(float* milliseconds, Event start, Event end);

  Result (*mem_get_info)(size_t* free_bytes, size_t* total_bytes);
  Result (*mem_host_register)(void* memory, size_t bytes, unsigned flags);
  Result (*mem_host_unregister)(void* memory);
};

// Calls f(symbol, version, member) for each, where `member` is the place in an Api and `version`
// the first CUDA version whose `symbol` has this signature. f returns whether to go on.
template <class F>
bool ForEachEntryPoint(F f) {
  return f("cuInit", 2000, &Api::init) && f("cuDriverGetVersion", 2020, &Api::driver_get_version) &&
         f("cuGetErrorName", 6000, &Api::get_error_name) &&
         f("cuDeviceGetCount", 2000, &Api::device_get_count) &&
         f("cuDeviceGet", 2000, &Api::device_get) &&
         f("cuDeviceGetName", 2000, &Api::device_get_name) &&
         f("cuDeviceGetUuid", 11040, &Api::device_get_uuid) &&
         f("cuDeviceGetAttribute", 2000, &Api::device_get_attribute) &&
         f("cuDeviceTotalMem", 3020, &Api::device_total_mem) &&
         f("cuMemGetAllocationGranularity", 10020, &Api::mem_get_allocation_granularity) &&
         f("cuMemCreate", 10020, &Api::mem_create) && f("cuMemRelease", 10020, &Api::mem_release) &&
         f("cuMemExportToShareableHandle", 10020, &Api::mem_export_to_shareable_handle) &&
         f("cuMemImportFromShareableHandle", 10020, &Api::mem_import_from_shareable_handle) &&
         f("cuMemAddressReserve", 10020, &Api::mem_address_reserve) &&
         f("cuMemAddressFree", 10020, &Api::mem_address_free) &&
         f("cuMemMap", 10020, &Api::mem_map) && f("cuMemUnmap", 10020, &Api::mem_unmap) &&
         f("cuMemSetAccess", 10020, &Api::mem_set_access) &&
         f("cuMemAlloc", 3020, &Api::mem_alloc) && f("cuMemFree", 3020, &Api::mem_free) &&
         f("cuMemRetainAllocationHandle", 11000, &Api::mem_retain_allocation_handle) &&
         f("cuMemGetAddressRange", 3020, &Api::mem_get_address_range) &&
         f("cuPointerGetAttribute", 4000, &Api::pointer_get_attribute) &&
         f("cuIpcGetMemHandle", 4010, &Api::ipc_get_mem_handle) &&
         f("cuIpcOpenMemHandle", 11000, &Api::ipc_open_mem_handle) &&
         f("cuIpcCloseMemHandle", 4010, &Api::ipc_close_mem_handle) &&
         f("cuDevicePrimaryCtxRetain", 7000, &Api::device_primary_ctx_retain) &&
         f("cuDevicePrimaryCtxRelease", 11000, &Api::device_primary_ctx_release) &&
         f("cuCtxPushCurrent", 4000, &Api::ctx_push_current) &&
         f("cuCtxPopCurrent", 4000, &Api::ctx_pop_current) &&
         f("cuMemcpyHtoDAsync", 3020, &Api::memcpy_htod_async) &&
         f("cuMemcpyDtoHAsync", 3020, &Api::memcpy_dtoh_async) &&
         f("cuMemcpyDtoDAsync", 3020, &Api::memcpy_dtod_async) &&
         f("cuStreamCreate", 2000, &Api::stream_create) &&
         f("cuStreamDestroy", 4000, &Api::stream_destroy) &&
         f("cuStreamSynchronize", 2000, &Api::stream_synchronize) &&
         f("cuStreamQuery", 2000, &Api::stream_query) &&
         f("cuStreamIsCapturing", 10000, &Api::stream_is_capturing) &&
         f("cuThreadExchangeStreamCaptureMode", 10010, &Api::thread_exchange_stream_capture_mode) &&
         f("cuEventCreate", 2000, &Api::event_create) &&
         f("cuEventDestroy", 4000, &Api::event_destroy) &&
         f("cuEventRecord", 2000, &Api::event_record) &&
         f("cuEventQuery", 2000, &Api::event_query) &&
         f("cuEventSynchronize", 2000, &Api::event_synchronize) &&
         f("cuEventElapsedTime", 2000, &Api::event_elapsed_time) &&
         f("cuMemGetInfo", 3020, &Api::mem_get_info) &&
         f("cuMemHostRegister", 6050, &Api::mem_host_register) &&
         f("cuMemHostUnregister", 4000, &Api::mem_host_unregister);
}

}  // namespace infercache::cuda

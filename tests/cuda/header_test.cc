// Our declarations of the driver's interface against the toolkit's. What matters is the ABI: that
// each entry point, in the version that is asked for, takes as many arguments of the same sizes and
// kinds.

#include <cuda.h>
#include <cudaTypedefs.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <type_traits>

#include "common/cuda/driver_types.h"

namespace infercache::cuda {
namespace {

template <class T>
constexpr bool kIsNumber = std::is_integral_v<T> || std::is_enum_v<T>;

// Passed alike: both pointers, or both integers or enums of one size, or both structures of one
// size, larger than what travels in registers.
template <class A, class B>
constexpr bool kSameShape = sizeof(A) == sizeof(B) &&
                            ((std::is_pointer_v<A> && std::is_pointer_v<B>) ||
                             (kIsNumber<A> && kIsNumber<B>) ||
                             (std::is_class_v<A> && std::is_class_v<B> && sizeof(A) > 16));

template <class Ours, class Theirs>
struct SameCall : std::false_type {};
template <class R1, class... A1, class R2, class... A2>
requires(sizeof...(A1) == sizeof...(A2)) struct SameCall<R1 (*)(A1...), R2 (*)(A2...)>
    : std::bool_constant<kSameShape<R1, R2> && (kSameShape<A1, A2> && ...)> {
};

template <class Theirs, class Ours>
void Compare(std::set<std::string>* compared, const char* symbol, int version, Ours Api::*) {
  static_assert(SameCall<Ours, Theirs>::value);
  compared->insert(std::string(symbol) + "_v" + std::to_string(version));
}

TEST(Header, EntryPointsHaveTheSignaturesThatTheirVersionsHave) {
  std::set<std::string> compared;
  Compare<PFN_cuInit_v2000>(&compared, "cuInit", 2000, &Api::init);
  Compare<PFN_cuDriverGetVersion_v2020>(&compared, "cuDriverGetVersion", 2020,
                                        &Api::driver_get_version);
  Compare<PFN_cuGetErrorName_v6000>(&compared, "cuGetErrorName", 6000, &Api::get_error_name);
  Compare<PFN_cuDeviceGetCount_v2000>(&compared, "cuDeviceGetCount", 2000, &Api::device_get_count);
  Compare<PFN_cuDeviceGet_v2000>(&compared, "cuDeviceGet", 2000, &Api::device_get);
  Compare<PFN_cuDeviceGetName_v2000>(&compared, "cuDeviceGetName", 2000, &Api::device_get_name);
  Compare<PFN_cuDeviceGetUuid_v11040>(&compared, "cuDeviceGetUuid", 11040, &Api::device_get_uuid);
  Compare<PFN_cuDeviceGetAttribute_v2000>(&compared, "cuDeviceGetAttribute", 2000,
                                          &Api::device_get_attribute);
  Compare<PFN_cuDeviceTotalMem_v3020>(&compared, "cuDeviceTotalMem", 3020, &Api::device_total_mem);
  Compare<PFN_cuMemGetAllocationGranularity_v10020>(&compared, "cuMemGetAllocationGranularity",
                                                    10020, &Api::mem_get_allocation_granularity);
  Compare<PFN_cuMemCreate_v10020>(&compared, "cuMemCreate", 10020, &Api::mem_create);
  Compare<PFN_cuMemRelease_v10020>(&compared, "cuMemRelease", 10020, &Api::mem_release);
  Compare<PFN_cuMemExportToShareableHandle_v10020>(&compared, "cuMemExportToShareableHandle", 10020,
                                                   &Api::mem_export_to_shareable_handle);
  Compare<PFN_cuMemImportFromShareableHandle_v10020>(&compared, "cuMemImportFromShareableHandle",
                                                     10020, &Api::mem_import_from_shareable_handle);
  Compare<PFN_cuMemAddressReserve_v10020>(&compared, "cuMemAddressReserve", 10020,
                                          &Api::mem_address_reserve);
  Compare<PFN_cuMemAddressFree_v10020>(&compared, "cuMemAddressFree", 10020,
                                       &Api::mem_address_free);
  Compare<PFN_cuMemMap_v10020>(&compared, "cuMemMap", 10020, &Api::mem_map);
  Compare<PFN_cuMemUnmap_v10020>(&compared, "cuMemUnmap", 10020, &Api::mem_unmap);
  Compare<PFN_cuMemSetAccess_v10020>(&compared, "cuMemSetAccess", 10020, &Api::mem_set_access);
  Compare<PFN_cuMemAlloc_v3020>(&compared, "cuMemAlloc", 3020, &Api::mem_alloc);
  Compare<PFN_cuMemFree_v3020>(&compared, "cuMemFree", 3020, &Api::mem_free);
  Compare<PFN_cuMemRetainAllocationHandle_v11000>(&compared, "cuMemRetainAllocationHandle", 11000,
                                                  &Api::mem_retain_allocation_handle);
  Compare<PFN_cuMemGetAddressRange_v3020>(&compared, "cuMemGetAddressRange", 3020,
                                          &Api::mem_get_address_range);
  Compare<PFN_cuPointerGetAttribute_v4000>(&compared, "cuPointerGetAttribute", 4000,
                                           &Api::pointer_get_attribute);
  Compare<PFN_cuIpcGetMemHandle_v4010>(&compared, "cuIpcGetMemHandle", 4010,
                                       &Api::ipc_get_mem_handle);
  Compare<PFN_cuIpcOpenMemHandle_v11000>(&compared, "cuIpcOpenMemHandle", 11000,
                                         &Api::ipc_open_mem_handle);
  Compare<PFN_cuIpcCloseMemHandle_v4010>(&compared, "cuIpcCloseMemHandle", 4010,
                                         &Api::ipc_close_mem_handle);
  Compare<PFN_cuDevicePrimaryCtxRetain_v7000>(&compared, "cuDevicePrimaryCtxRetain", 7000,
                                              &Api::device_primary_ctx_retain);
  Compare<PFN_cuDevicePrimaryCtxRelease_v11000>(&compared, "cuDevicePrimaryCtxRelease", 11000,
                                                &Api::device_primary_ctx_release);
  Compare<PFN_cuCtxPushCurrent_v4000>(&compared, "cuCtxPushCurrent", 4000, &Api::ctx_push_current);
  Compare<PFN_cuCtxPopCurrent_v4000>(&compared, "cuCtxPopCurrent", 4000, &Api::ctx_pop_current);
  Compare<PFN_cuMemcpyHtoDAsync_v3020>(&compared, "cuMemcpyHtoDAsync", 3020,
                                       &Api::memcpy_htod_async);
  Compare<PFN_cuMemcpyDtoHAsync_v3020>(&compared, "cuMemcpyDtoHAsync", 3020,
                                       &Api::memcpy_dtoh_async);
  Compare<PFN_cuMemcpyDtoDAsync_v3020>(&compared, "cuMemcpyDtoDAsync", 3020,
                                       &Api::memcpy_dtod_async);
  Compare<PFN_cuStreamCreate_v2000>(&compared, "cuStreamCreate", 2000, &Api::stream_create);
  Compare<PFN_cuStreamDestroy_v4000>(&compared, "cuStreamDestroy", 4000, &Api::stream_destroy);
  Compare<PFN_cuStreamSynchronize_v2000>(&compared, "cuStreamSynchronize", 2000,
                                         &Api::stream_synchronize);
  Compare<PFN_cuStreamQuery_v2000>(&compared, "cuStreamQuery", 2000, &Api::stream_query);
  Compare<PFN_cuStreamIsCapturing_v10000>(&compared, "cuStreamIsCapturing", 10000,
                                          &Api::stream_is_capturing);
  Compare<PFN_cuThreadExchangeStreamCaptureMode_v10010>(&compared,
                                                        "cuThreadExchangeStreamCaptureMode", 10010,
                                                        &Api::thread_exchange_stream_capture_mode);
  Compare<PFN_cuEventCreate_v2000>(&compared, "cuEventCreate", 2000, &Api::event_create);
  Compare<PFN_cuEventDestroy_v4000>(&compared, "cuEventDestroy", 4000, &Api::event_destroy);
  Compare<PFN_cuEventRecord_v2000>(&compared, "cuEventRecord", 2000, &Api::event_record);
  Compare<PFN_cuEventQuery_v2000>(&compared, "cuEventQuery", 2000, &Api::event_query);
  Compare<PFN_cuEventSynchronize_v2000>(&compared, "cuEventSynchronize", 2000,
                                        &Api::event_synchronize);
  Compare<PFN_cuEventElapsedTime_v2000>(&compared, "cuEventElapsedTime", 2000,
                                        &Api::event_elapsed_time);
  Compare<PFN_cuMemGetInfo_v3020>(&compared, "cuMemGetInfo", 3020, &Api::mem_get_info);
  Compare<PFN_cuMemHostRegister_v6050>(&compared, "cuMemHostRegister", 6050,
                                       &Api::mem_host_register);
  Compare<PFN_cuMemHostUnregister_v4000>(&compared, "cuMemHostUnregister", 4000,
                                         &Api::mem_host_unregister);

  // Nobody adds one to the table and forgets it here.
  std::set<std::string> used;
  ForEachEntryPoint([&used](const char* symbol, int version, auto) {
    used.insert(std::string(symbol) + "_v" + std::to_string(version));
    return true;
  });
  EXPECT_EQ(compared, used);
  EXPECT_EQ(used.size() * sizeof(void*), sizeof(Api)) << "a member that nobody loads";
}

TEST(Header, StructuresHaveTheSameLayout) {
  EXPECT_EQ(sizeof(Uuid), sizeof(CUuuid));
  EXPECT_EQ(sizeof(IpcHandle), sizeof(CUipcMemHandle));
  EXPECT_EQ(alignof(IpcHandle), alignof(CUipcMemHandle));
  EXPECT_EQ(sizeof(MemoryLocation), sizeof(CUmemLocation));
  EXPECT_EQ(offsetof(MemoryLocation, type), offsetof(CUmemLocation, type));
  EXPECT_EQ(offsetof(MemoryLocation, id), offsetof(CUmemLocation, id));
  using Properties = AllocationProperties;
  EXPECT_EQ(sizeof(Properties), sizeof(CUmemAllocationProp));
  EXPECT_EQ(offsetof(Properties, type), offsetof(CUmemAllocationProp, type));
  EXPECT_EQ(offsetof(Properties, requested_handle_types),
            offsetof(CUmemAllocationProp, requestedHandleTypes));
  EXPECT_EQ(offsetof(Properties, location), offsetof(CUmemAllocationProp, location));
  EXPECT_EQ(offsetof(Properties, win32_handle_meta_data),
            offsetof(CUmemAllocationProp, win32HandleMetaData));
  EXPECT_EQ(offsetof(Properties, flags), offsetof(CUmemAllocationProp, allocFlags));
  EXPECT_EQ(sizeof(AccessDescription), sizeof(CUmemAccessDesc));
  EXPECT_EQ(offsetof(AccessDescription, location), offsetof(CUmemAccessDesc, location));
  EXPECT_EQ(offsetof(AccessDescription, flags), offsetof(CUmemAccessDesc, flags));
}

TEST(Header, NumbersMeanTheSame) {
  const std::map<int, int> ours_to_theirs = {
    {kSuccess, CUDA_SUCCESS},
    {kInvalidValue, CUDA_ERROR_INVALID_VALUE},
    {kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY},
    {kNotInitialized, CUDA_ERROR_NOT_INITIALIZED},
    {kStubLibrary, CUDA_ERROR_STUB_LIBRARY},
#if CUDA_VERSION >= 13000  // older ones do not name it
    {kCallRequiresNewerDriver, CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER},
#endif
    {kNoDevice, CUDA_ERROR_NO_DEVICE},
    {kInvalidDevice, CUDA_ERROR_INVALID_DEVICE},
    {kInvalidContext, CUDA_ERROR_INVALID_CONTEXT},
    {kOperatingSystem, CUDA_ERROR_OPERATING_SYSTEM},
    {kInvalidHandle, CUDA_ERROR_INVALID_HANDLE},
    {kNotFound, CUDA_ERROR_NOT_FOUND},
    {kNotReady, CUDA_ERROR_NOT_READY},
    {kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS},
    {kContextIsDestroyed, CUDA_ERROR_CONTEXT_IS_DESTROYED},
    {kHostMemoryAlreadyRegistered, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED},
    {kHostMemoryNotRegistered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED},
    {kNotPermitted, CUDA_ERROR_NOT_PERMITTED},
    {kNotSupported, CUDA_ERROR_NOT_SUPPORTED},
    {kSystemNotReady, CUDA_ERROR_SYSTEM_NOT_READY},
    {kSystemDriverMismatch, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH},
    {kStreamCaptureUnsupported, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
    {kStreamCaptureImplicit, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT},
    {kStreamCaptureWrongThread, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD},
  };
  for (const auto& [ours, theirs] : ours_to_theirs) EXPECT_EQ(ours, theirs);
  EXPECT_EQ(kLocationDevice, int{CU_MEM_LOCATION_TYPE_DEVICE});
  EXPECT_EQ(kAllocationPinned, int{CU_MEM_ALLOCATION_TYPE_PINNED});
  EXPECT_EQ(kHandlePosixFd, int{CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR});
  EXPECT_EQ(kAccessRead, int{CU_MEM_ACCESS_FLAGS_PROT_READ});
  EXPECT_EQ(kAccessReadWrite, int{CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  EXPECT_EQ(kGranularityMinimum, int{CU_MEM_ALLOC_GRANULARITY_MINIMUM});
  EXPECT_EQ(kAttributeVirtualMemory, int{CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED});
  EXPECT_EQ(kAttributePosixFdHandles,
            int{CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED});
  EXPECT_EQ(kStreamNonBlocking, unsigned{CU_STREAM_NON_BLOCKING});
  EXPECT_EQ(kAttributeGpuDirectRdma,
            int{CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED});
  EXPECT_EQ(kAttributeReadOnlyHostRegister,
            int{CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED});
  EXPECT_EQ(kHostRegisterPortable, unsigned{CU_MEMHOSTREGISTER_PORTABLE});
  EXPECT_EQ(kHostRegisterReadOnly, unsigned{CU_MEMHOSTREGISTER_READ_ONLY});
  EXPECT_EQ(kEventDisableTiming, unsigned{CU_EVENT_DISABLE_TIMING});
  EXPECT_EQ(kCaptureModeGlobal, CU_STREAM_CAPTURE_MODE_GLOBAL);
  EXPECT_EQ(kCaptureModeRelaxed, CU_STREAM_CAPTURE_MODE_RELAXED);
  EXPECT_EQ(kPointerDeviceOrdinal, int{CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL});
  EXPECT_EQ(kPointerIsLegacyIpcCapable, int{CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE});
  EXPECT_EQ(kIpcLazyEnablePeerAccess, unsigned{CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS});
}

}  // namespace
}  // namespace infercache::cuda

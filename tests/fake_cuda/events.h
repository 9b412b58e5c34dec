// Moments in a stream, as entry points of the driver.

#pragma once

#include "common/cuda/driver_types.h"

namespace infercache::fake_cuda {

cuda::Result EventCreate(cuda::Event* event, unsigned flags);
cuda::Result EventDestroy(cuda::Event event);
cuda::Result EventRecord(cuda::Event event, cuda::Stream stream);
cuda::Result EventQuery(cuda::Event event);
cuda::Result EventSynchronize(cuda::Event event);
cuda::Result EventElapsedTime(float* milliseconds, cuda::Event start, cuda::Event end);

}  // namespace infercache::fake_cuda

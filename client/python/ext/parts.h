// The parts of an object as Python sees them.

#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "infercache/types.h"

namespace infercache::python {

nanobind::tuple ShapeOf(const PartSpec& part);

// A list of infercache.Part: (dtype, shape, nbytes).
nanobind::list PartList(std::span<const PartSpec> parts);

// Negative ones count from the end. IndexError.
size_t PartIndex(std::span<const PartSpec> parts, Py_ssize_t index);

// For dtype and shape, which an object of several parts has several of: ValueError.
PartSpec OnlyPart(std::span<const PartSpec> parts);

// Seconds; None: it does not expire.
nanobind::object TtlSeconds(const ObjectInfo& info);

// The beginning of a repr(): "<infercache.NAME of 12 bytes, float32".
std::string ReprOf(const char* name, uint64_t bytes, std::span<const PartSpec> parts);

}  // namespace infercache::python

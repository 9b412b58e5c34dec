// The daemon stores no object without bytes, but tensors without elements exist. Such a value is
// stored with a last part of its own, one uint8 of the highest rank, which readers do not show.
//
// So that a value which happens to end in such a part comes back whole, it gets another one. For
// parts P: filled(P) = P + filler if NeedsFiller(P), else P; shown(Q) = Q without its last part if
// that is a filler and NeedsFiller(the rest), else Q. shown(filled(P)) = P for every P.

#pragma once

#include <span>

#include "infercache/types.h"

namespace infercache::python {

PartSpec Filler();

// Whether `parts` have no bytes, or none but those of last parts that look like fillers.
bool NeedsFiller(std::span<const PartSpec> parts);

// How many of a stored object's parts are the value's.
size_t ShownParts(std::span<const PartSpec> stored);

}  // namespace infercache::python

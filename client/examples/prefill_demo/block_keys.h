// Names for the blocks of a prompt: each key hashes the block's tokens and the key of the block
// before it, so equal keys mean equal text from the first token on. That is what makes a block's
// keys and values reusable: they depend on everything before it.

#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/examples/prefill_demo/model.h"
#include "infercache/types.h"

namespace infercache::demo {

// One key for each full block of `tokens`, in order; a rest shorter than a block has none.
std::vector<std::string> BlockKeys(std::span<const Token> tokens);

// Everything that another model's blocks would differ in: they are misses for this one.
FingerprintEntries BlockFingerprint(const ModelConfig& model);

}  // namespace infercache::demo

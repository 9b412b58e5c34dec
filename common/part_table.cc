#include "common/part_table.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

bool ReadVarint(std::string_view* in, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64 && !in->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(in->front());
    in->remove_prefix(1);
    if (shift == 63 && byte > 1) return false;  // beyond 64 bits
    *value |= uint64_t{byte & 0x7fu} << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool ReadByte(std::string_view* in, uint8_t* value) {
  if (in->empty()) return false;
  *value = static_cast<uint8_t>(in->front());
  in->remove_prefix(1);
  return true;
}

absl::Status CheckPart(const PartSpec& part, size_t index) {
  const auto fail = [index](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat("part ", index, ": ", what...));
  };
  if (static_cast<uint8_t>(part.dtype) > kLastDataType) {
    return fail("unknown dtype ", static_cast<int>(part.dtype));
  }
  if (part.size_bytes > kMaxObjectBytes) {
    return fail("size of ", part.size_bytes, " bytes; the limit is ", kMaxObjectBytes);
  }
  if (part.dtype == DataType::kBytes) {
    return part.shape.empty() ? absl::OkStatus() : fail("plain bytes have no shape");
  }
  if (part.shape.size() > kMaxRank) {
    return fail("rank ", part.shape.size(), "; the limit is ", kMaxRank);
  }
  uint64_t bytes = 0;
  if (!TensorBytes(part.dtype, part.shape, &bytes)) return fail("its shape overflows 64 bits");
  if (bytes != part.size_bytes) {
    return fail("size of ", part.size_bytes, " bytes, but its shape and dtype ",
                DataTypeName(part.dtype), " make ", bytes);
  }
  return absl::OkStatus();
}

void AppendRun(const PartSpec& part, uint64_t count, std::string* out) {
  AppendVarint(count, out);
  out->push_back(static_cast<char>(part.dtype));
  out->push_back(static_cast<char>(part.shape.size()));
  if (part.dtype == DataType::kBytes) {
    AppendVarint(part.size_bytes, out);
  } else {
    for (const uint64_t dimension : part.shape) AppendVarint(dimension, out);
  }
}

bool ReadRun(std::string_view* in, PartSpec* part, uint64_t* count) {
  uint8_t dtype = 0;
  uint8_t rank = 0;
  if (!ReadVarint(in, count) || *count == 0 || *count > kMaxParts) return false;
  if (!ReadByte(in, &dtype) || dtype > kLastDataType) return false;
  if (!ReadByte(in, &rank) || rank > kMaxRank) return false;
  part->dtype = static_cast<DataType>(dtype);
  part->shape.resize(rank);
  if (part->dtype == DataType::kBytes) {
    return rank == 0 && ReadVarint(in, &part->size_bytes) && part->size_bytes <= kMaxObjectBytes;
  }
  for (uint64_t& dimension : part->shape) {
    if (!ReadVarint(in, &dimension)) return false;
  }
  return TensorBytes(part->dtype, part->shape, &part->size_bytes) &&
         part->size_bytes <= kMaxObjectBytes;
}

}  // namespace

bool TensorBytes(DataType dtype, std::span<const uint64_t> shape, uint64_t* bytes) {
  // A zero anywhere makes an empty tensor, even if the other dimensions would overflow.
  for (const uint64_t dimension : shape) {
    if (dimension == 0) {
      *bytes = 0;
      return true;
    }
  }
  *bytes = ElementSize(dtype);
  for (const uint64_t dimension : shape) {
    if (__builtin_mul_overflow(*bytes, dimension, bytes)) return false;
  }
  return true;
}

absl::StatusOr<std::string> EncodePartTable(std::span<const PartSpec> parts,
                                            uint64_t object_bytes) {
  std::string table;
  if (parts.empty()) return table;
  if (parts.size() > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat(parts.size(), " parts; the limit is ", kMaxParts));
  }
  uint64_t total = 0;  // cannot overflow: kMaxParts * kMaxObjectBytes < 2^64
  size_t run_start = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    RETURN_IF_ERROR(CheckPart(parts[i], i));
    total += parts[i].size_bytes;
    if (i + 1 == parts.size() || parts[i + 1] != parts[i]) {
      AppendRun(parts[i], i + 1 - run_start, &table);
      run_start = i + 1;
    }
  }
  if (total != object_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the parts add up to ", total, " bytes, the object has ", object_bytes));
  }
  if (table.size() > kMaxPartTableBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the description of the parts takes ",
                                                   table.size(), " bytes; the limit is ",
                                                   kMaxPartTableBytes));
  }
  return table;
}

absl::StatusOr<std::vector<PartSpec>> DecodePartTable(std::string_view table) {
  std::vector<PartSpec> parts;
  while (!table.empty()) {
    PartSpec part;
    uint64_t count = 0;
    if (!ReadRun(&table, &part, &count) || parts.size() + count > kMaxParts) {
      return absl::InvalidArgumentError("malformed part table");
    }
    parts.insert(parts.end(), count, part);
  }
  return parts;
}

}  // namespace infercache

#include "client/examples/prefill_demo/matmul.h"

#include <cassert>

namespace infercache::demo {
namespace {

constexpr size_t kColumns = PackedMatrix::kPanelColumns;
constexpr size_t kRows = 4;  // rows at a time: 4 x 8 sums fit the registers of any x86-64 or ARMv8

// Four floats in one register; may start at any float.
using Vec = float __attribute__((vector_size(16), aligned(4), may_alias));
constexpr size_t kVecs = kColumns / 4;

// The sums stay in registers over the whole depth: unrolled, the arrays below are names for them.
template <size_t R>
void MultiplyPanel(const float* a, size_t a_stride, const float* panel, size_t depth, float* c,
                   size_t c_stride) {
  Vec sum[R][kVecs];
#pragma GCC unroll 8
  for (size_t i = 0; i < R * kVecs; ++i) {
    sum[i / kVecs][i % kVecs] =
        *reinterpret_cast<const Vec*>(c + i / kVecs * c_stride + i % kVecs * 4);
  }
  for (size_t k = 0; k < depth; ++k) {
    const Vec* b = reinterpret_cast<const Vec*>(panel + k * kColumns);
#pragma GCC unroll 8
    for (size_t i = 0; i < R * kVecs; ++i) {
      sum[i / kVecs][i % kVecs] += a[i / kVecs * a_stride + k] * b[i % kVecs];
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < R * kVecs; ++i) {
    *reinterpret_cast<Vec*>(c + i / kVecs * c_stride + i % kVecs * 4) = sum[i / kVecs][i % kVecs];
  }
}

}  // namespace

PackedMatrix::PackedMatrix(size_t depth, size_t columns)
    : depth_(depth), columns_(columns), values_(depth * columns) {
  assert(columns % kPanelColumns == 0);
}

void PackedMatrix::Pack(std::span<const float> rows) {
  assert(rows.size() == depth_ * columns_);
  for (size_t column = 0; column < columns_; column += kColumns) {
    float* out = values_.data() + column * depth_;
    for (size_t k = 0; k < depth_; ++k) {
      for (size_t j = 0; j < kColumns; ++j) *out++ = rows[k * columns_ + column + j];
    }
  }
}

void PackedMatrix::PackTransposed(std::span<const float> rows) {
  assert(rows.size() == depth_ * columns_);
  for (size_t column = 0; column < columns_; column += kColumns) {
    float* out = values_.data() + column * depth_;
    for (size_t k = 0; k < depth_; ++k) {
      for (size_t j = 0; j < kColumns; ++j) *out++ = rows[(column + j) * depth_ + k];
    }
  }
}

void MultiplyAdd(ConstRows a, size_t row_count, const PackedMatrix& b, MutableRows c) {
  for (size_t column = 0; column < b.columns(); column += kColumns) {
    const float* panel = b.panel(column / kColumns);
    size_t row = 0;
    for (; row + kRows <= row_count; row += kRows) {
      MultiplyPanel<kRows>(a.data + row * a.stride, a.stride, panel, b.depth(),
                           c.data + row * c.stride + column, c.stride);
    }
    for (; row < row_count; ++row) {
      MultiplyPanel<1>(a.data + row * a.stride, a.stride, panel, b.depth(),
                       c.data + row * c.stride + column, c.stride);
    }
  }
}

}  // namespace infercache::demo

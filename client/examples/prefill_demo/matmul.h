// Single-precision matrix product, the one kernel that the demo's transformer spends its time in.
//
// Every element of a result is computed in the same order, whatever rows are computed together with
// it: c + a[0]*b[0] + a[1]*b[1] + ..., each step rounded. A token's numbers therefore do not depend
// on how a prompt was split into calls, which is what lets blocks from a cache stand in, bit for
// bit, for blocks that were computed here. (Built with -ffp-contract=off: a fused multiply-add in
// some places and not in others would break this.)

#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace infercache::demo {

// The right-hand side of a product, [depth][columns], stored as panels of kPanelColumns columns
// that the kernel reads front to back.
class PackedMatrix {
 public:
  static constexpr size_t kPanelColumns = 8;

  // All zero. REQUIRES: columns is a multiple of kPanelColumns.
  PackedMatrix(size_t depth, size_t columns);

  // Fills it from row-major values. REQUIRES: rows.size() == depth * columns.
  void Pack(std::span<const float> rows);
  // The same from the transpose, [columns][depth].
  void PackTransposed(std::span<const float> rows);

  size_t depth() const { return depth_; }
  size_t columns() const { return columns_; }
  const float* panel(size_t index) const { return values_.data() + index * depth_ * kPanelColumns; }

 private:
  size_t depth_;
  size_t columns_;
  std::vector<float> values_;
};

// A row-major matrix that lies inside another one: `stride` floats from row to row.
struct ConstRows {
  const float* data;
  size_t stride;
};
struct MutableRows {
  float* data;
  size_t stride;
};

// c += a * b for `row_count` rows of a (b.depth() wide) and c (b.columns() wide).
void MultiplyAdd(ConstRows a, size_t row_count, const PackedMatrix& b, MutableRows c);

}  // namespace infercache::demo

// An array whose elements stay where they are as it grows: a large one is never copied while
// everybody waits, and has no more room than it needs.
//
// Not thread-safe.

#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

namespace infercache::store {

template <class T>
class Pieces {
 public:
  size_t size() const { return size_; }
  // REQUIRES: i < size().
  T& operator[](size_t i) { return (*pieces_[i / kPiece])[i % kPiece]; }
  const T& operator[](size_t i) const { return (*pieces_[i / kPiece])[i % kPiece]; }
  void PushBack(const T& value) {
    if (size_ == pieces_.size() * kPiece) pieces_.push_back(std::make_unique<Piece>());
    ++size_;
    (*this)[size_ - 1] = value;
  }
  size_t memory_bytes() const {
    return pieces_.size() * sizeof(Piece) + pieces_.capacity() * sizeof(pieces_[0]);
  }

 private:
  static constexpr size_t kPiece = 1024;
  using Piece = std::array<T, kPiece>;

  std::vector<std::unique_ptr<Piece>> pieces_;
  size_t size_ = 0;
};

}  // namespace infercache::store

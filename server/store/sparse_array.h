// An array in private memory of its own that gets its pages as they are used: it may have as many
// elements as there could ever be. Elements are never destroyed.

#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace infercache::store {

// REQUIRES of T: all bytes zero are its initial value.
template <class T>
class SparseArray {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  // RESOURCE_EXHAUSTED "no address space for the WHAT of SIZE objects: ...".
  static absl::StatusOr<SparseArray> Create(size_t size, std::string_view what) {
    void* data = mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat("no address space for the ",
                                                       std::string(what), " of ", size,
                                                       " objects: ", strerror(errno)));
    }
    return SparseArray(static_cast<T*>(data), size);
  }
  SparseArray(SparseArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  SparseArray& operator=(SparseArray&&) = delete;
  ~SparseArray() {
    if (data_ != nullptr) munmap(data_, size_ * sizeof(T));
  }

  T* data() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  SparseArray(T* data, size_t size) : data_(data), size_(size) {}

  T* data_;
  size_t size_;
};

}  // namespace infercache::store

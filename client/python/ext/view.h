// infercache.View: one cached object as Python sees it.
//
// The bytes belong to whatever was made from them last: a view, an array. Each keeps the object,
// and so its pin, until it dies; releasing the view gives up the view's own share only. A view
// whose buffer was taken has no share to give up before it dies: some consumers (numpy.ndarray,
// torch.frombuffer) give the buffer back at once, go on using its memory, and keep nothing but the
// view itself.

#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <span>

#include "infercache/client.h"

namespace infercache::python {

using SharedObject = std::shared_ptr<const Object>;

class View {
 public:
  explicit View(Object object);

  // ValueError: released. ForkedError: made by a parent, whose mappings this process lacks.
  const Object& object() const { return *shared(); }
  const SharedObject& shared() const;
  // Of object(), what its writer put: without a filler (filler.h).
  std::span<const PartSpec> parts() const;
  std::span<const std::byte> bytes() const;

  void Release();
  bool released() const { return released_; }
  void BufferTaken() { buffer_taken_ = true; }

 private:
  SharedObject object_;
  bool released_ = false;
  bool buffer_taken_ = false;
  uint64_t fork_epoch_;
};

// The bytes of one part, as a buffer that keeps them for as long as it lives: numpy and torch
// remember the exporter, and torch forgets the buffer itself.
class PartBytes {
 public:
  // `claims_writable`: for torch, which has no read-only tensors and complains of what they are
  // made from. It changes nothing about the memory.
  PartBytes(SharedObject object, std::span<const std::byte> bytes, bool claims_writable);

  std::span<const std::byte> bytes() const { return bytes_; }
  bool claims_writable() const { return claims_writable_; }
  bool inherited() const;

 private:
  SharedObject object_;
  std::span<const std::byte> bytes_;
  bool claims_writable_;
  uint64_t fork_epoch_;
};

void DefineView(nanobind::module_& m);

}  // namespace infercache::python

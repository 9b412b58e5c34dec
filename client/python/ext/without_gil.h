// The GIL, given up for a scope by a thread that may or may not have it: destructors run where the
// last owner happens to let go, and a consumer of DLPack may do so either way.

#pragma once

#include <Python.h>

namespace infercache::python {

class WithoutGil {
 public:
  WithoutGil() : state_(Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace infercache::python

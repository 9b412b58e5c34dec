// The GIL, given up for a scope by a thread that may or may not have it: destructors run where the
// last owner happens to let go, and a consumer of DLPack may do so either way.

#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace infercache::python {

class WithoutGil {
 public:
  WithoutGil() : state_(Py_IsInitialized() && HasGil() ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ == nullptr) return;
    // Taking it would end this thread by an exception, which no destructor lets through. The
    // process is about to end.
    while (IsFinalizing()) std::this_thread::sleep_for(std::chrono::hours(1));
    PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
#if PY_VERSION_HEX >= 0x030D0000
  static PyThreadState* Current() { return PyThreadState_GetUnchecked(); }
  static bool IsFinalizing() { return Py_IsFinalizing(); }
#else
  static PyThreadState* Current() { return _PyThreadState_UncheckedGet(); }
  static bool IsFinalizing() { return _Py_IsFinalizing(); }
#endif
  // Not PyGILState_Check, which says yes to every thread once there was a subinterpreter.
  static bool HasGil() {
    PyThreadState* const current = Current();
    return current != nullptr && current == PyGILState_GetThisThreadState();
  }

  PyThreadState* const state_;
};

}  // namespace infercache::python

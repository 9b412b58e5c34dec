// Threads of a library, which leave the program's signals to the program's own threads.

#pragma once

#include <pthread.h>
#include <signal.h>

#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace infercache {

// A thread that runs `f`, takes no signals and has this name (at most 15 characters).
// RESOURCE_EXHAUSTED: out of threads.
template <class F>
absl::StatusOr<std::thread> StartThread(const char* name, F f) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::StatusOr<std::thread> started;
  // The standard library has no other word for it.
  try {
    started = std::thread(std::move(f));
  } catch (const std::system_error& error) {
    started = absl::ResourceExhaustedError(absl::StrCat("no thread ", name, ": ", error.what()));
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (started.ok()) pthread_setname_np(started->native_handle(), name);
  return started;
}

}  // namespace infercache

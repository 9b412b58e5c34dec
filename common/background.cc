#include "common/background.h"

#include <utility>

namespace infercache {

Background::Background(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

Background::~Background() {
  std::deque<std::function<void()>> dropped;
  {
    MutexLock lock(&mu_);
    stop_ = true;
    tasks_.swap(dropped);
    changed_.SignalAll();
  }
  dropped.clear();
  for (std::thread& thread : threads_) thread.join();
}

void Background::Post(std::function<void()> task) {
  MutexLock lock(&mu_);
  tasks_.push_back(std::move(task));
  changed_.Signal();
}

std::function<void()> Background::Take() {
  MutexLock lock(&mu_);
  while (tasks_.empty() && !stop_) changed_.Wait(&mu_);
  if (tasks_.empty()) return nullptr;
  std::function<void()> task = std::move(tasks_.front());
  tasks_.pop_front();
  return task;
}

void Background::Run() {
  while (const std::function<void()> task = Take()) task();
}

}  // namespace infercache

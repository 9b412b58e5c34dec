// Closes descriptors on threads of its own. Closing what a stranger made may take as long as the
// stranger likes: a TCP socket that lingers over what was not sent, a file of a file system that he
// serves, or a Unix socket in which such descriptors are still under way.

#pragma once

#include <cstddef>
#include <memory>

namespace infercache {

// Thread-safe; nothing here waits for a descriptor. Its threads may outlive it.
class Closer {
 public:
  Closer();
  // Waits for what it was given, but not for long: what takes longer is left to its threads.
  ~Closer();
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // Takes over `fd`.
  void Close(int fd);
  // The same for a Unix socket of our own, which nobody else reads from: what is under way in it is
  // taken out first and closed like everything here.
  void CloseSocket(int fd);

  // Throws away what a socket of our own has to read, but not much more than `budget` bytes; what
  // comes beside it is closed. True: the peer has closed it, or it is broken. False: there may be
  // more.
  bool Drain(int socket, size_t budget);

  // Given and not closed yet. Each is a descriptor, so that whoever gives has to heed it.
  size_t pending() const;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace infercache

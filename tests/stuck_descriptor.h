// A descriptor whose last close takes an hour, or until this is destroyed: a Unix socket in which a
// TCP socket is under way that lingers over bytes which nobody takes.

#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <utility>
#include <vector>

#include "common/frame_channel.h"
#include "common/unique_fd.h"

namespace infercache {

class StuckDescriptor {
 public:
  StuckDescriptor() {
    UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int least = 1;
    setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener.get(), raw, size), 0);
    EXPECT_EQ(listen(listener.get(), 1), 0);
    EXPECT_EQ(getsockname(listener.get(), raw, &size), 0);
    UniqueFd lingers(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(lingers.get(), raw, size), 0);
    reader_ = UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::string bytes(65'536, 'x');
    while (send(lingers.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
    }
    const linger hour = {.l_onoff = 1, .l_linger = 3'600};
    EXPECT_EQ(setsockopt(lingers.get(), SOL_SOCKET, SO_LINGER, &hour, sizeof hour), 0);

    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    descriptor_ = UniqueFd(ends[0]);
    UniqueFd sender(ends[1]);
    FrameWriter writer;
    std::vector<UniqueFd> beside;
    beside.push_back(std::move(lingers));
    writer.Add("", std::move(beside));
    EXPECT_TRUE(writer.Flush(sender.get()).ok());
  }
  // Nothing is left to linger for.
  ~StuckDescriptor() { reader_.Reset(); }

  int get() const { return descriptor_.get(); }
  // Not to be closed by the test's thread: it may be the last one.
  UniqueFd Take() { return std::move(descriptor_); }

 private:
  UniqueFd reader_, descriptor_;
};

}  // namespace infercache

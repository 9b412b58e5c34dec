#include "common/closer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

#include "common/frame_channel.h"
#include "common/unique_fd.h"
#include "tests/stuck_descriptor.h"

namespace infercache {
namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_end = UniqueFd(ends[0]);
    write_end = UniqueFd(ends[1]);
  }
  // Waits for it.
  bool IsClosed() const {
    char byte;
    return read(read_end.get(), &byte, 1) == 0;
  }

  UniqueFd read_end, write_end;
};

TEST(Closer, WhatIsStuckHoldsUpNeitherTheNextNorTheEnd) {
  StuckDescriptor first, second;
  Pipe pipe;
  const auto begin = std::chrono::steady_clock::now();
  {
    Closer closer;
    closer.Close(first.Take().Release());
    closer.Close(second.Take().Release());
    closer.Close(pipe.write_end.Release());
    EXPECT_TRUE(pipe.IsClosed());
    EXPECT_GE(closer.pending(), 2u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(Closer, ClosesWhatIsUnderWayInASocketOfOurs) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  Pipe pipe;
  FrameWriter writer;
  std::vector<UniqueFd> beside;
  beside.push_back(std::move(pipe.write_end));
  writer.Add("", std::move(beside));
  ASSERT_TRUE(writer.Flush(theirs.get()).ok());
  Closer closer;
  closer.CloseSocket(ours.Release());
  EXPECT_TRUE(pipe.IsClosed());
  char byte;
  EXPECT_EQ(read(theirs.get(), &byte, 1), 0);
}

TEST(Closer, AUniqueFdOfItIsClosedByIt) {
  Closer closer;
  Pipe pipe;
  StuckDescriptor stuck;
  {
    const UniqueFd of_closer(pipe.write_end.Release(), &closer),
        other(stuck.Take().Release(), &closer);
  }
  EXPECT_TRUE(pipe.IsClosed());
}

}  // namespace
}  // namespace infercache

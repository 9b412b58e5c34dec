#include "common/frame_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "tests/file_limit.h"

namespace infercache {
namespace {

// One frame of the largest size kept a megabyte for as long as the connection lived.
TEST(FrameReader, KeepsNoLargeBufferOnceItIsDrained) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameReader reader(/*max_descriptors=*/0);
  FrameWriter writer;
  size_t received = 0, most = 0;
  const auto send = [&](size_t bytes) {
    writer.Add(std::string(bytes, 'x'));
    for (received = 0; received == 0;) {
      ASSERT_TRUE(writer.Flush(theirs.get()).ok());
      ASSERT_TRUE(reader
                      .Read(ours.get(), 1 << 20,
                            [&](std::string_view body, std::vector<UniqueFd>) {
                              received = body.size();
                              return absl::OkStatus();
                            })
                      .ok());
      most = std::max(most, reader.buffer_bytes());
    }
  };
  send(kMaxFrameBytes);
  EXPECT_EQ(received, kMaxFrameBytes);
  EXPECT_GE(most, kMaxFrameBytes) << "it was never large";
  EXPECT_LE(reader.buffer_bytes(), size_t{256} * 1024);
  send(100);
  EXPECT_EQ(received, 100u);
  const size_t small = reader.buffer_bytes();
  EXPECT_GT(small, 100u) << "what is small is kept";
  send(100);
  EXPECT_EQ(reader.buffer_bytes(), small);
}

// Eight bytes made the reader of a stranger's connection fill a megabyte with zeros.
TEST(FrameReader, TakesMemoryForWhatHasComeNotForWhatIsClaimed) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameReader reader(/*max_descriptors=*/0);
  const auto read = [&] {
    return reader.Read(ours.get(), 1 << 20,
                       [](std::string_view, std::vector<UniqueFd>) { return absl::OkStatus(); });
  };
  std::string header(kFrameHeaderBytes, '\0');
  header[2] = 0x10;  // a megabyte
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(send(theirs.get(), header.data(), header.size(), 0), ssize_t{8});
    ASSERT_TRUE(read().ok());
  }
  EXPECT_LT(reader.buffer_bytes(), size_t{64} * 1024);
}

TEST(FrameReader, HasALimitThatCanBeRaised) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameReader reader(/*max_descriptors=*/0, /*max_body_bytes=*/100);
  FrameWriter writer;
  for (const size_t bytes : {100, 1000, 1001}) writer.Add(std::string(bytes, 'x'));
  ASSERT_TRUE(writer.Flush(theirs.get()).ok());
  std::vector<size_t> sizes;
  const auto read = reader.Read(ours.get(), 1 << 20, [&](std::string_view body, auto) {
    sizes.push_back(body.size());
    reader.set_max_body_bytes(1000);
    return absl::OkStatus();
  });
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sizes, (std::vector<size_t>{100, 1000}));
}

// Reading them without room for them would close them, as slowly as their sender likes.
TEST(FrameReader, LeavesDescriptorsWhereTheyAreIfItTakesNone) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameWriter writer;
  std::vector<UniqueFd> sent;
  sent.emplace_back(dup(ours.get()));
  writer.Add("first");
  ASSERT_TRUE(writer.Flush(theirs.get()).ok());
  writer.Add("second", std::move(sent));
  ASSERT_TRUE(writer.Flush(theirs.get()).ok());
  FrameReader reader(/*max_descriptors=*/0);
  const auto read = reader.Read(ours.get(), 1 << 20, [](std::string_view, std::vector<UniqueFd>) {
    return absl::OkStatus();
  });
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  FrameReader taker(/*max_descriptors=*/1);
  size_t found = 0;
  for (int frame = 0; frame < 2; ++frame) {
    const auto again =
        taker.Read(ours.get(), 1 << 20, [&](std::string_view, std::vector<UniqueFd> fds) {
          found += fds.size();
          return absl::OkStatus();
        });
    ASSERT_TRUE(again.ok()) << again.status();
  }
  EXPECT_EQ(found, 1u);
}

// It looked like a peer that sends too many.
TEST(FrameReader, StandsInForDescriptorsThatTheProcessHasNoRoomFor) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameReader reader(kMaxFrameDescriptors);
  FrameWriter writer;
  const auto send = [&](const char* body, int count) {
    std::vector<UniqueFd> beside;
    for (int i = 0; i < count; ++i) beside.emplace_back(dup(ours.get()));
    writer.Add(body, std::move(beside));
    ASSERT_TRUE(writer.Flush(theirs.get()).ok());
  };
  std::vector<std::string> seen;
  const auto read = [&] {
    const auto result =
        reader.Read(ours.get(), 1 << 20, [&](std::string_view body, std::vector<UniqueFd> fds) {
          for (const UniqueFd& fd : fds) seen.push_back(fd.valid() ? "valid" : "lost");
          seen.emplace_back(body);
          return absl::OkStatus();
        });
    EXPECT_TRUE(result.ok()) << result.status();
  };
  send("plain", 0);
  send("two", 2);
  {
    const FileLimit full;
    read();
  }
  send("one", 1);
  while (seen.size() < 6) read();
  EXPECT_EQ(seen, (std::vector<std::string>{"plain", "lost", "lost", "two", "valid", "one"}));
}

}  // namespace
}  // namespace infercache

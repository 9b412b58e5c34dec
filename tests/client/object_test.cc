#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <utility>

#include "infercache/client.h"

namespace infercache {
namespace {

// What it was moved to may be gone, and its bytes with it.
TEST(Object, MovedFromHasNoBytes) {
  const std::array<std::byte, 3> bytes = {};
  Object object(bytes, {{.size_bytes = 3}}, {}, nullptr);
  Object moved(std::move(object));
  EXPECT_EQ(moved.bytes().data(), bytes.data());
  EXPECT_EQ(moved.part(0).size(), 3u);
  EXPECT_TRUE(object.bytes().empty());  // NOLINT(bugprone-use-after-move)

  Object assigned({}, {}, {}, nullptr);
  assigned = std::move(moved);
  EXPECT_EQ(assigned.bytes().data(), bytes.data());
  EXPECT_EQ(assigned.parts().size(), 1u);
  EXPECT_TRUE(moved.bytes().empty());  // NOLINT(bugprone-use-after-move)
}

}  // namespace
}  // namespace infercache

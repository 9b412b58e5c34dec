#include "deploy/packaging/reference/generate.h"

#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/status_macros.h"
#include "deploy/packaging/reference/bash_completion.h"

namespace infercache::reference {
namespace {

absl::StatusOr<std::string> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) return absl::NotFoundError("cannot read " + path);
  return content;
}

absl::Status Write(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  return file ? absl::OkStatus() : absl::InternalError("cannot write " + path);
}

absl::Status Run(const std::vector<std::string>& arguments, const Command& program,
                 const Lists& lists) {
  if (arguments.size() == 2 && arguments[0] == "bash") {
    return Write(arguments[1], BashCompletion(program));
  }
  if (arguments.size() == 3 && arguments[0] == "man") {
    ASSIGN_OR_RETURN(const std::string page_template, Read(arguments[1]));
    ASSIGN_OR_RETURN(const std::string page,
                     ManPage(page_template, program, INFERCACHE_VERSION, lists));
    return Write(arguments[2], page);
  }
  return absl::InvalidArgumentError("usage: man TEMPLATE OUTPUT | bash OUTPUT");
}

}  // namespace

int Generate(int argc, char** argv, const Command& program, const Lists& lists) {
  const absl::Status status = Run({argv + 1, argv + argc}, program, lists);
  if (status.ok()) return 0;
  fmt::print(stderr, "{}: {}\n", argv[0], std::string(status.message()));
  return 1;
}

}  // namespace infercache::reference

// Any bytes are a configuration file or an error that names the file and a line; what is accepted
// prints as a file that means the same.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "server/config_file.h"
#include "server/config_print.h"
#include "server/options.h"

namespace {

using infercache::server::ApplyYaml;
using infercache::server::Config;
using infercache::server::Origins;

void Require(bool condition) {
  if (!condition) std::abort();
}

// Every line of an error message names the file.
void RequireLocated(std::string_view message) {
  Require(!message.empty());
  while (!message.empty()) {
    Require(message.starts_with("fuzz:"));
    const size_t end = message.find('\n');
    if (end == std::string_view::npos) return;
    message.remove_prefix(end + 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Config config;
  Origins origins;
  const absl::Status status = ApplyYaml(text, "fuzz", config, origins);
  if (!status.ok()) {
    RequireLocated(std::string(status.message()));
    return 0;
  }
  (void)infercache::server::CheckConfig(config);
  // A secret is not printed, so what is read back has none.
  for (auto& credential : config.credentials) credential.token.clear();
  Config read;
  Require(ApplyYaml(infercache::server::PrintConfig(config), "printed", read, origins).ok());
  for (const auto& field : infercache::server::ConfigFields()) {
    Require(ValueText(field, read) == ValueText(field, config));
  }
  Require(read.namespaces.size() == config.namespaces.size());
  return 0;
}

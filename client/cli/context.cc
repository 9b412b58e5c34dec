#include "client/cli/context.h"

#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "client/cli/file_io.h"
#include "client/cli/units.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace infercache::cli {

absl::StatusOr<FingerprintEntries> ParseEntries(std::string_view option,
                                                const std::vector<std::string>& texts) {
  FingerprintEntries entries;
  for (const std::string_view text : texts) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string_view::npos) {
      return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not key=value", option, text));
    }
    entries.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return entries;
}

absl::StatusOr<ClientOptions> Context::MakeClientOptions(absl::Duration fallback) const {
  ClientOptions options;
  options.endpoint = options_.endpoint;
  if (!options_.namespace_name.empty()) options.namespace_name = options_.namespace_name;
  ASSIGN_OR_RETURN(options.fingerprint, ParseEntries("--fingerprint", options_.fingerprint));
  if (!options_.token_file.empty()) {
    ASSIGN_OR_RETURN(const std::string token, ReadFile(options_.token_file));
    options.bearer_token = std::string(absl::StripAsciiWhitespace(token));
    if (options.bearer_token.empty()) {
      return absl::InvalidArgumentError(
          fmt::format("--token-file: {} holds no token", options_.token_file));
    }
  }
  const std::pair<const std::string&, std::string TlsOptions::*> files[] = {
      {options_.tls_ca_file, &TlsOptions::ca_pem},
      {options_.tls_certificate_file, &TlsOptions::certificate_pem},
      {options_.tls_key_file, &TlsOptions::private_key_pem}};
  if (options_.tls) options.tls.emplace();
  for (const auto& [path, member] : files) {
    if (path.empty()) continue;
    if (!options.tls) options.tls.emplace();
    ASSIGN_OR_RETURN((*options.tls).*member, ReadFile(path));
  }
  options.deadline = deadline(fallback);
  return options;
}

absl::StatusOr<std::unique_ptr<Client>> Context::ConnectClient(absl::Duration fallback) const {
  ASSIGN_OR_RETURN(ClientOptions options, MakeClientOptions(fallback));
  return Client::Connect(std::move(options));
}

absl::StatusOr<std::unique_ptr<AdminClient>> Context::ConnectAdmin() const {
  ASSIGN_OR_RETURN(const ClientOptions options, MakeClientOptions());
  return AdminClient::Connect(options);
}

uint64_t NeededBytes(const v1::NamespaceSpec& spec) {
  if (spec.quota_bytes() > 0) return spec.quota_bytes();
  uint64_t bytes = 0;
  const bool overflow =
      __builtin_mul_overflow(spec.live_objects(), spec.live_object_bytes(), &bytes);
  return overflow ? std::numeric_limits<uint64_t>::max() : bytes;
}

absl::Duration CreationDeadline(uint64_t bytes) {
  constexpr absl::Duration kAtLeast = absl::Seconds(5);
  constexpr absl::Duration kPerGiB = absl::Seconds(2);
  return kAtLeast + kPerGiB * (static_cast<double>(bytes) / (uint64_t{1} << 30));
}

void AddTraceOption(CLI::App& app, std::string& file) {
  app.add_option("--trace", file,
                 "Mooncake format: {\"timestamp\", \"input_length\", \"output_length\", "
                 "\"hash_ids\"} a line; - is standard input")
      ->type_name("FILE")
      ->required();
}

void AddGlobalOptions(CLI::App& app, GlobalOptions& options) {
  app.add_option(
         "--endpoint", options.endpoint,
         "Where the daemon listens: unix:PATH or host:port [its socket, else 127.0.0.1:7400]")
      ->type_name("ADDR")
      ->envname("INFERCACHE_ENDPOINT");
  app.add_option("--namespace", options.namespace_name, "Namespace to work in [default]")
      ->type_name("NAME")
      ->envname("INFERCACHE_NAMESPACE");
  app.add_option(
         "--fingerprint", options.fingerprint,
         "Model, revision, dtype, ... that objects are stored under; repeatable. Objects of "
         "another fingerprint are misses")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app.add_option("--token-file", options.token_file, "File with the bearer token")
      ->type_name("FILE")
      ->envname("INFERCACHE_TOKEN_FILE");
  app.add_flag("--tls", options.tls, "Use TLS with the system's roots");
  app.add_option("--tls-ca", options.tls_ca_file, "PEM file of roots to trust; implies --tls")
      ->type_name("FILE")
      ->envname("INFERCACHE_TLS_CA");
  auto* certificate = app.add_option("--tls-cert", options.tls_certificate_file,
                                     "PEM file of this client's certificate, for mTLS")
                          ->type_name("FILE")
                          ->envname("INFERCACHE_TLS_CERT");
  auto* key = app.add_option("--tls-key", options.tls_key_file, "PEM file of its private key")
                  ->type_name("FILE")
                  ->envname("INFERCACHE_TLS_KEY");
  certificate->needs(key);
  key->needs(certificate);
  AddParsedOption(app, "--deadline", options.deadline, ParseDuration, "DURATION",
                  "Of every call, connecting included, as in 250ms, 30s [5s; get and put 60s]");
  const std::map<std::string, OutputFormat> formats = {{"table", OutputFormat::kTable},
                                                       {"json", OutputFormat::kJson}};
  app.add_option("-o,--output", options.format,
                 "json is one JSON document a line on standard output [table]")
      ->type_name("table|json")
      ->transform(CLI::CheckedTransformer(formats, CLI::ignore_case).description(""));
}

}  // namespace infercache::cli

// get put: the bytes of one object.

#include <poll.h>

#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/file_io.h"
#include "client/cli/keys.h"
#include "client/cli/object_text.h"
#include "client/cli/progress.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

// A value may be large: the deadline of one call, unless the user gives another.
constexpr absl::Duration kValueDeadline = absl::Seconds(60);

// The one completion of a client with one request under way, with a sign of life on a terminal.
Completion Await(Client& client, const std::string& label) {
  Progress progress(label);
  while (true) {
    pollfd ready = {client.event_fd(), POLLIN, 0};
    poll(&ready, 1, /*timeout_ms=*/200);
    auto completions = client.Drain();
    if (!completions.empty()) return std::move(completions.front());
    progress.Spin();
  }
}

struct GetArguments {
  std::string key;
  std::string file = "-";
};

absl::StatusOr<ExitCode> Get(const Context& context, const GetArguments& arguments) {
  if (context.json() && arguments.file == "-") {
    return absl::InvalidArgumentError(
        "-o json needs a FILE: without one, standard output carries the value");
  }
  ASSIGN_OR_RETURN(const std::string key, UnescapeKey(arguments.key));
  ASSIGN_OR_RETURN(const auto client, context.ConnectClient(kValueDeadline));
  const std::string_view keys[] = {key};
  client->SubmitGet(keys);
  const Completion completion = Await(*client, absl::StrCat("get ", arguments.key));
  const GetResult& result = completion.get.front();
  RETURN_IF_ERROR(result.status);

  if (!result.hit()) {
    if (context.json()) {
      Print(JsonLine({{"key", EscapeKey(key)}, {"hit", false}}));
    } else {
      std::fputs(absl::StrCat("miss: ", EscapeKey(key), "\n").c_str(), stderr);
    }
    return ExitCode::kMiss;
  }
  const Object& object = *result.object;
  RETURN_IF_ERROR(WriteFile(arguments.file, object.bytes()));
  if (context.json()) {
    Json json = {{"key", EscapeKey(key)}, {"hit", true}, {"file", arguments.file}};
    json.update(ObjectJson(object.bytes().size(), object.info(), object.parts()));
    Print(JsonLine(json));
  }
  return ExitCode::kOk;
}

struct PutArguments {
  std::string key;
  std::string file = "-";
  absl::Duration ttl = absl::ZeroDuration();  // zero = none
  ObjectInfo info;
  std::string parent;
  bool overwrite = false;
};

absl::StatusOr<ExitCode> Put(const Context& context, const PutArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string key, UnescapeKey(arguments.key));
  PutItem item;
  item.key = key;
  item.info = arguments.info;
  item.overwrite = arguments.overwrite;
  item.info.ttl_ms = static_cast<uint64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(arguments.ttl, absl::Milliseconds(1))));
  if (!arguments.parent.empty()) {
    ASSIGN_OR_RETURN(item.info.parent_key, UnescapeKey(arguments.parent));
  }
  ASSIGN_OR_RETURN(const std::string value, ReadFile(arguments.file));
  if (value.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        arguments.file == "-" ? "standard input" : arguments.file, " is empty; a value is not"));
  }
  item.value = {std::as_bytes(std::span(value))};

  ASSIGN_OR_RETURN(const auto client, context.ConnectClient(kValueDeadline));
  client->SubmitPut({&item, 1});
  const Completion completion = Await(
      *client,
      absl::StrCat("put ", arguments.key, ", ", FormatSize(static_cast<double>(value.size()))));
  const PutResult& result = completion.put.front();
  RETURN_IF_ERROR(result.status);

  const bool stored = result.outcome == PutOutcome::kStored;
  if (context.json()) {
    Print(JsonLine({{"key", EscapeKey(key)},
                    {"outcome", stored ? "stored" : "exists"},
                    {"size_bytes", value.size()}}));
  } else {
    Print(stored ? absl::StrCat("stored ", EscapeKey(key), ", ",
                                FormatSize(static_cast<double>(value.size())), "\n")
                 : absl::StrCat("exists: ", EscapeKey(key),
                                " was there and stays (--overwrite replaces it)\n"));
  }
  return ExitCode::kOk;
}

void AddGet(CommandLine& line) {
  auto* get = line.app.add_subcommand("get", "Read an object into FILE or to standard output");
  const auto arguments = std::make_shared<GetArguments>();
  get->add_option("KEY", arguments->key, "Escaped, see --help of the program")->required();
  get->add_option("FILE", arguments->file, "Written only on a hit; - is standard output [-]");
  get->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) { return Get(context, *arguments); };
  });
}

void AddPut(CommandLine& line) {
  auto* put = line.app.add_subcommand("put", "Store FILE or standard input as an object");
  const auto arguments = std::make_shared<PutArguments>();
  put->add_option("KEY", arguments->key, "Escaped, see --help of the program")->required();
  put->add_option("FILE", arguments->file, "- is standard input [-]");
  put->add_flag("--overwrite", arguments->overwrite,
                "Replace an object that is there; without it that object stays");
  AddParsedOption(*put, "--ttl", arguments->ttl, ParseDuration, "DURATION",
                  "Forget it after this time, as in 30s, 12h [never]");
  std::map<std::string, ObjectKind> kinds;
  for (uint8_t kind = 0; kind <= kLastObjectKind; ++kind) {
    kinds[ObjectKindName(ObjectKind{kind})] = ObjectKind{kind};
  }
  put->add_option("--kind", arguments->info.kind, "What the value is, for accounting [blob]")
      ->type_name("blob|kv|activation|embedding|output")
      ->transform(CLI::CheckedTransformer(kinds, CLI::ignore_case).description(""));
  put->add_option("--class", arguments->info.class_id, "Opaque hint, 0 to 15 [0]")
      ->type_name("N")
      ->check(CLI::Range(0, static_cast<int>(kMaxClassId)).description(""));
  put->add_option("--cost-ms", arguments->info.compute_cost_ms,
                  "What computing it again would take, for the compute saved [0]")
      ->type_name("MS")
      ->check(CLI::NonNegativeNumber.description(""));
  put->add_option("--parent", arguments->parent, "Key of the block before this one in its chain")
      ->type_name("KEY");
  put->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) { return Put(context, *arguments); };
  });
}

}  // namespace

void AddObjectCommands(CommandLine& line) {
  AddGet(line);
  AddPut(line);
}

}  // namespace infercache::cli

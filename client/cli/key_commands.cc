// delete exists list match: many keys, no values.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/keys.h"
#include "client/cli/object_text.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

using Keys = std::vector<std::string>;

// One answer per key: {"keys": [{"key", NAME}], "COUNT": n}.
ExitCode PrintFlags(const Context& context, const Keys& keys, const std::vector<bool>& flags,
                    const std::string& name, const char* yes, const char* no) {
  const auto count = std::count(flags.begin(), flags.end(), true);
  if (context.json()) {
    Json list = Json::array();
    for (size_t i = 0; i < keys.size(); ++i) {
      list.push_back({{"key", EscapeKey(keys[i])}, {name, bool{flags[i]}}});
    }
    Print(JsonLine({{"keys", std::move(list)}, {name, count}}));
  } else {
    Table table({{"RESULT", Table::Align::kLeft}, {"KEY", Table::Align::kLeft}});
    for (size_t i = 0; i < keys.size(); ++i) {
      table.AddRow({flags[i] ? yes : no, EscapeKey(keys[i])});
    }
    Print(table.Text());
  }
  return static_cast<size_t>(count) == keys.size() ? ExitCode::kOk : ExitCode::kMiss;
}

absl::StatusOr<ExitCode> Delete(const Context& context, const Keys& texts) {
  ASSIGN_OR_RETURN(const Keys keys, UnescapeKeys(texts));
  ASSIGN_OR_RETURN(const auto client, context.ConnectClient());
  const KeysResult result = client->Delete(Views(keys));
  RETURN_IF_ERROR(result.status);
  return PrintFlags(context, keys, result.flags, "deleted", "deleted", "miss");
}

absl::StatusOr<ExitCode> Exists(const Context& context, const Keys& texts) {
  ASSIGN_OR_RETURN(const Keys keys, UnescapeKeys(texts));
  ASSIGN_OR_RETURN(const auto client, context.ConnectClient());
  const KeysResult result = client->Exists(Views(keys));
  RETURN_IF_ERROR(result.status);
  return PrintFlags(context, keys, result.flags, "present", "hit", "miss");
}

absl::StatusOr<ExitCode> Match(const Context& context, const Keys& texts) {
  ASSIGN_OR_RETURN(const Keys keys, UnescapeKeys(texts));
  ASSIGN_OR_RETURN(const auto client, context.ConnectClient());
  const MatchResult result = client->Match(Views(keys));
  RETURN_IF_ERROR(result.status);
  if (context.json()) {
    Json list = Json::array();
    for (size_t i = 0; i < keys.size(); ++i) {
      list.push_back({{"key", EscapeKey(keys[i])},
                      {"present", bool{result.present[i]}},
                      {"size_bytes", result.size_bytes[i]}});
    }
    Print(JsonLine({{"prefix_length", result.prefix_length}, {"keys", std::move(list)}}));
  } else {
    Table table(
        {{"BLOCK"}, {"RESULT", Table::Align::kLeft}, {"SIZE"}, {"KEY", Table::Align::kLeft}});
    for (size_t i = 0; i < keys.size(); ++i) {
      const bool present = result.present[i];
      const bool prefix = i < result.prefix_length;
      table.AddRow({absl::StrCat(i),
                    prefix    ? "prefix"
                    : present ? "hit"
                              : "miss",
                    present ? FormatSize(static_cast<double>(result.size_bytes[i])) : "",
                    EscapeKey(keys[i])});
    }
    Print(absl::StrCat(table.Text(), "cached prefix: ", result.prefix_length, " of ", keys.size(),
                       " blocks\n"));
  }
  return result.prefix_length > 0 ? ExitCode::kOk : ExitCode::kMiss;
}

struct ListArguments {
  std::string prefix;
  uint64_t limit = 0;  // 0 = all
};

std::string ListText(const std::vector<ListedObject>& objects, bool with_titles) {
  // Fixed widths keep the pages of a long list aligned.
  Table table({{"SIZE", Table::Align::kRight, 8},
               {"KIND", Table::Align::kLeft, 10},
               {"CLASS", Table::Align::kRight, 5},
               {"TTL", Table::Align::kRight, 9},
               {"PARTS", Table::Align::kLeft, 12},
               {"KEY", Table::Align::kLeft}});
  for (const auto& object : objects) {
    table.AddRow(
        {FormatSize(static_cast<double>(object.size_bytes)), ObjectKindName(object.info.kind),
         absl::StrCat(object.info.class_id),
         object.info.ttl_ms == 0 ? "-" : FormatElapsed(absl::Milliseconds(object.info.ttl_ms)),
         PartsText(object.parts), EscapeKey(object.key)});
  }
  return table.Text(with_titles);
}

absl::StatusOr<ExitCode> List(const Context& context, const ListArguments& arguments) {
  std::string prefix;
  if (!arguments.prefix.empty()) {
    ASSIGN_OR_RETURN(prefix, UnescapeKey(arguments.prefix));
  }
  ASSIGN_OR_RETURN(const auto client, context.ConnectClient());
  std::string token;
  uint64_t listed = 0;
  do {
    const uint64_t rest = arguments.limit == 0 ? kMaxListPageSize : arguments.limit - listed;
    const uint64_t page_size = std::min<uint64_t>(rest, 1'000);
    const ListResult page = client->List(prefix, static_cast<uint32_t>(page_size), token);
    RETURN_IF_ERROR(page.status);
    if (context.json()) {
      for (const auto& object : page.objects) {
        Json json = {{"key", EscapeKey(object.key)}};
        json.update(ObjectJson(object.size_bytes, object.info, object.parts));
        Print(JsonLine(json));
      }
    } else if (!page.objects.empty()) {
      Print(ListText(page.objects, /*with_titles=*/listed == 0));
    }
    listed += page.objects.size();
    token = page.next_page_token;
  } while (!token.empty() && (arguments.limit == 0 || listed < arguments.limit));
  return ExitCode::kOk;
}

void AddKeysCommand(CommandLine& line, const char* name, const char* help,
                    absl::StatusOr<ExitCode> (*run)(const Context&, const Keys&)) {
  auto* command = line.app.add_subcommand(name, help);
  const auto keys = std::make_shared<Keys>();
  command->add_option("KEY", *keys, "Escaped, see --help of the program")->required();
  command->callback([&line, keys, run] {
    line.selected = [keys, run](const Context& context) { return run(context, *keys); };
  });
}

}  // namespace

void AddKeyCommands(CommandLine& line) {
  AddKeysCommand(line, "delete", "Erase objects; 1 if one of them was not there", Delete);
  AddKeysCommand(line, "exists", "Which keys are there? 1 if one is not; no use is counted",
                 Exists);
  AddKeysCommand(line, "match",
                 "How long a prefix of this chain of keys is cached? 1 if none of it", Match);

  auto* list = line.app.add_subcommand(
      "list", "Objects of the namespace under the fingerprint, in byte order of their keys");
  const auto arguments = std::make_shared<ListArguments>();
  list->add_option("PREFIX", arguments->prefix, "Only keys that start with it, escaped");
  list->add_option("--limit", arguments->limit, "At most so many [all]")
      ->type_name("N")
      ->check(CLI::PositiveNumber.description(""));
  list->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) { return List(context, *arguments); };
  });
}

}  // namespace infercache::cli

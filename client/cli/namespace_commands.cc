// namespace list|create|policy|delete

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/context.h"
#include "client/cli/progress.h"
#include "client/cli/units.h"
#include "common/absl_view.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

std::string RequiredText(const v1::NamespaceSpec& spec) {
  if (spec.required_fingerprint().empty()) return "-";
  return absl::StrJoin(spec.required_fingerprint(), " ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.key(), "=", entry.value());
  });
}

// As the configuration writes them; "-" is nobody.
std::string PeersText(const v1::LocalPeers& peers) {
  if (peers.everyone()) return "*";
  std::vector<std::string> texts;
  for (const uint32_t user : peers.users()) texts.push_back(absl::StrCat(user));
  for (const uint32_t group : peers.groups()) texts.push_back(absl::StrCat("@", group));
  return texts.empty() ? "-" : absl::StrJoin(texts, " ");
}

std::string TiersText(const v1::NamespaceSpec& spec) {
  if (spec.tiers().empty()) return "-";
  return absl::StrJoin(spec.tiers(), " ", [](std::string* out, const v1::TierSpec& tier) {
    const std::string size = FormatSize(static_cast<double>(tier.quota_bytes()));
    absl::StrAppend(out, tier.device(), "=", tier.why_off().empty() ? size : "off");
  });
}

// "*", numbers of users and "@" with numbers of groups, with commas between; "-" is nobody.
absl::StatusOr<v1::LocalPeers> ParsePeers(std::string_view option, const std::string& list) {
  v1::LocalPeers peers;
  if (list == "-") return peers;
  for (const std::string& text : std::vector<std::string>(absl::StrSplit(list, ','))) {
    const bool group = text.starts_with('@');
    uint32_t id = 0;
    if (text == "*") {
      peers.set_everyone(true);
    } else if (absl::SimpleAtoi(text.substr(group ? 1 : 0), &id)) {
      group ? peers.add_groups(id) : peers.add_users(id);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(AbslView(option), ": \"", text,
                       "\" is neither *, the number of a user nor @ and that of a group"));
    }
  }
  return peers;
}

std::string SpecsText(const std::vector<v1::NamespaceSpec>& specs) {
  Table table({{"NAMESPACE", Table::Align::kLeft},
               {"QUOTA"},
               {"MAX OBJECTS"},
               {"POLICY", Table::Align::kLeft},
               {"OPEN", Table::Align::kLeft},
               {"LOCAL USERS", Table::Align::kLeft},
               {"LOCAL WRITERS", Table::Align::kLeft},
               {"GPU TIERS", Table::Align::kLeft},
               {"REQUIRED FINGERPRINT", Table::Align::kLeft}});
  for (const auto& spec : specs) {
    table.AddRow({spec.name(), FormatSize(static_cast<double>(spec.quota_bytes())),
                  absl::StrCat(spec.max_objects()), spec.policy(), spec.grpc_open() ? "yes" : "no",
                  PeersText(spec.local_users()), PeersText(spec.local_writers()), TiersText(spec),
                  RequiredText(spec)});
  }
  return table.Text();
}

absl::StatusOr<ExitCode> ListNamespaces(const Context& context) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  ASSIGN_OR_RETURN(const v1::ListNamespacesResponse response, admin->ListNamespaces());
  Print(context.json() ? JsonLine(MessageJson(response))
                       : SpecsText({response.namespaces().begin(), response.namespaces().end()}));
  return ExitCode::kOk;
}

struct CreateArguments {
  uint64_t quota_bytes = 0, max_objects = 0, live_objects = 0, live_object_bytes = 0;
  std::string name, policy;
  std::string local_users = "*", local_writers = "*";
  std::vector<std::string> required;
  bool open = false, checksums = false;
};

absl::StatusOr<ExitCode> CreateNamespace(const Context& context, const CreateArguments& arguments) {
  v1::NamespaceSpec spec;
  spec.set_name(arguments.name);
  spec.set_quota_bytes(arguments.quota_bytes);
  spec.set_max_objects(arguments.max_objects);
  spec.set_live_objects(arguments.live_objects);
  spec.set_live_object_bytes(arguments.live_object_bytes);
  spec.set_policy(arguments.policy);
  spec.set_grpc_open(arguments.open);
  spec.set_checksums(arguments.checksums);
  ASSIGN_OR_RETURN(*spec.mutable_local_users(), ParsePeers("--local-users", arguments.local_users));
  ASSIGN_OR_RETURN(*spec.mutable_local_writers(),
                   ParsePeers("--local-writers", arguments.local_writers));
  ASSIGN_OR_RETURN(const auto required, ParseEntries("--require", arguments.required));
  for (const auto& [key, value] : required) {
    auto* entry = spec.add_required_fingerprint();
    entry->set_key(key);
    entry->set_value(value);
  }
  ASSIGN_OR_RETURN(const ClientOptions options,
                   context.MakeClientOptions(CreationDeadline(NeededBytes(spec))));
  ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(options));
  // Comes when the memory is populated.
  auto answer =
      std::async(std::launch::async, [&admin, &spec] { return admin->CreateNamespace(spec); });
  {
    Progress progress(absl::StrCat("namespace create ", spec.name()));
    while (answer.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready) {
      progress.Spin();
    }
  }
  ASSIGN_OR_RETURN(const v1::NamespaceSpec made, answer.get());
  Print(context.json() ? JsonLine(MessageJson(made)) : SpecsText({made}));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> ChangePolicy(const Context& context, const std::string& name,
                                      const std::string& policy) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  ASSIGN_OR_RETURN(const std::string previous, admin->SetPolicy(name, policy));
  Print(context.json()
            ? JsonLine({{"namespace", name}, {"policy", policy}, {"previous_policy", previous}})
            : absl::StrCat("policy of namespace ", name, " is ", policy, ", before ", previous,
                           "\n"));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> DeleteNamespace(const Context& context, const std::string& name) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  RETURN_IF_ERROR(admin->DeleteNamespace(name));
  Print(context.json() ? JsonLine({{"namespace", name}, {"deleted", true}})
                       : absl::StrCat("namespace ", name, " deleted\n"));
  return ExitCode::kOk;
}

void AddCreate(CLI::App& parent, CommandLine& line) {
  auto* create = parent.add_subcommand(
      "create", "Make a namespace, sized by --quota, or by --live-objects of --live-object-bytes");
  const auto arguments = std::make_shared<CreateArguments>();
  create->add_option("NAME", arguments->name, "1 to 64 of a-z 0-9 . _ -")->required();
  auto* quota = AddParsedOption(*create, "--quota", arguments->quota_bytes, ParseSize, "SIZE",
                                "Memory of its objects, rounding included, as in 512MiB");
  create
      ->add_option("--max-objects", arguments->max_objects,
                   "Size of its index [derived from the quota]")
      ->type_name("N");
  auto* objects = create
                      ->add_option("--live-objects", arguments->live_objects,
                                   "Instead of --quota: room for so many objects ...")
                      ->type_name("N")
                      ->check(CLI::PositiveNumber.description(""))
                      ->excludes(quota);
  auto* bytes = AddParsedOption(*create, "--live-object-bytes", arguments->live_object_bytes,
                                ParseSize, "SIZE", "... of this size each");
  objects->needs(bytes);
  bytes->needs(objects);
  create->add_option("--policy", arguments->policy, "Eviction policy [auto]")->type_name("NAME");
  create
      ->add_option("--require", arguments->required,
                   "Fingerprint entry that every client must state; repeatable")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  create->add_flag("--open", arguments->open, "Loopback clients need no credential over gRPC");
  create
      ->add_option("--local-users", arguments->local_users,
                   "Who may use it over the same-host lane: uids, @gids, * for everyone, - for "
                   "nobody; with commas between them [*]")
      ->type_name("IDS");
  create
      ->add_option("--local-writers", arguments->local_writers,
                   "Who of them may store; - lets all send what the daemon then copies [*]")
      ->type_name("IDS");
  create->add_flag("--checksums", arguments->checksums, "Check a CRC32C at every hit");
  create->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) {
      return CreateNamespace(context, *arguments);
    };
  });
}

void AddPolicy(CLI::App& parent, CommandLine& line) {
  auto* change = parent.add_subcommand(
      "policy", "Change the eviction policy of a namespace; no object is evicted");
  struct Arguments {
    std::string name, policy;
  };
  const auto arguments = std::make_shared<Arguments>();
  change->add_option("NAME", arguments->name)->required();
  change->add_option("POLICY", arguments->policy, "As in create --policy")->required();
  change->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) {
      return ChangePolicy(context, arguments->name, arguments->policy);
    };
  });
}

}  // namespace

void AddNamespaceCommands(CommandLine& line) {
  auto* parent = line.app.add_subcommand("namespace", "List, create, change and delete namespaces");
  parent->require_subcommand(1);
  parent->add_subcommand("list", "All namespaces with their quotas and rules")->callback([&line] {
    line.selected = ListNamespaces;
  });
  AddCreate(*parent, line);
  AddPolicy(*parent, line);

  auto* remove = parent->add_subcommand("delete", "Delete a namespace and every object in it");
  const auto name = std::make_shared<std::string>();
  remove->add_option("NAME", *name)->required();
  remove->callback([&line, name] {
    line.selected = [name](const Context& context) { return DeleteNamespace(context, *name); };
  });
}

}  // namespace infercache::cli

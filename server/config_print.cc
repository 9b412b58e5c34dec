#include "server/config_print.h"

#include <array>
#include <span>
#include <vector>

#include "server/options.h"
#include "server/text.h"

namespace infercache::server {
namespace {

constexpr size_t kColumns = 96;

constexpr std::array kProgramFlags = {
    ProgramFlag{"-h, --help", "", "Print this and exit."},
    ProgramFlag{"--version", "", "Print version and build, and exit."},
    ProgramFlag{"--config", "FILE", "YAML file. Environment: INFERCACHE_CONFIG."},
    ProgramFlag{"--check-config", "", "Check the configuration and exit: 0, or 78 and the errors."},
    ProgramFlag{"--print-config", "",
                "Print the effective configuration as commented YAML and exit."},
};

// `text` broken into lines that start with `lead`.
void AppendWrapped(std::string_view text, std::string_view lead, std::string& out) {
  std::string line(lead);
  ForEachPiece(text, ' ', [&line, &out, lead](std::string_view word) {
    if (line.size() + 1 + word.size() > kColumns) {
      Append(out, line, "\n");
      line = lead;
    }
    Append(line, " ", word);
  });
  Append(out, line, "\n");
}

void AppendComment(std::string_view text, std::string_view indent, std::string& out) {
  AppendWrapped(text, Cat(indent, "#"), out);
}

void AppendHelp(std::string_view usage, std::string_view text, std::string& out) {
  Append(out, "  ", usage, "\n");
  AppendWrapped(text, "       ", out);
}

template <typename T>
void AppendItems(std::span<const Field<T>> fields, const std::vector<T>& items,
                 std::string_view indent, std::string& out) {
  const T defaults;
  for (const T& item : items) {
    std::string_view lead = "- ";
    for (const Field<T>& field : fields) {
      const std::string text = ValueText(field, item);
      if (text == ValueText(field, defaults)) continue;
      Append(out, indent, lead, field.key, ": ", field.secret ? "\"<redacted>\"" : text, "\n");
      lead = "  ";
    }
  }
}

// A credential as the file gave it: the content of a token file is not part of it.
std::vector<CredentialConfig> AsWritten(std::vector<CredentialConfig> credentials) {
  for (CredentialConfig& c : credentials) {
    if (!c.token_file.empty()) c.token.clear();
  }
  return credentials;
}

template <typename T>
void AppendStructured(std::string_view key, std::string_view what, std::span<const Field<T>> fields,
                      const std::vector<T>& items, std::string_view indent, std::string& out) {
  AppendComment(what, indent, out);
  for (const Field<T>& field : fields) {
    AppendComment(Cat("  ", field.key, ": ", field.help), indent, out);
  }
  Append(out, indent, key, ":", items.empty() ? " []\n" : "\n");
  AppendItems(fields, items, Cat(indent, "  "), out);
}

constexpr std::string_view kNamespacesHelp =
    "Namespaces that exist from the start. Without this list: one, \"default\", open to loopback.";
constexpr std::string_view kCredentialsHelp =
    "Clients that are let in by a bearer token or by a TLS certificate.";

template <typename T>
std::string FieldTable(std::span<const Field<T>> fields) {
  std::string out = "| key | type | default | meaning |\n|---|---|---|---|\n";
  const T defaults;
  for (const Field<T>& field : fields) {
    Append(out, "| `", field.key, "` | ",
           ReplaceAll(KindName(field.kind, field.choices), '|', " or "), " | `",
           ValueText(field, defaults), "` | ", field.help, " |\n");
  }
  return out;
}

std::vector<std::string_view> Groups() {
  std::vector<std::string_view> groups;
  for (const auto& field : ConfigFields()) {
    if (groups.empty() || groups.back() != field.group) groups.push_back(field.group);
  }
  return groups;
}

}  // namespace

std::span<const ProgramFlag> ProgramFlags() { return kProgramFlags; }

std::string PrintConfig(const Config& config) {
  std::string out = "# Effective configuration of infercached.\n";
  std::vector<std::string_view> sections_done;
  for (const auto& first : ConfigFields()) {
    const std::string_view section = first.key.substr(0, first.key.find('.'));
    if (section == first.key) {
      Append(out, "\n");
      AppendComment(first.help, "", out);
      Append(out, first.key, ": ", ValueText(first, config), "\n");
      continue;
    }
    // A map may stand in the file once, so the whole section goes where its first key is.
    bool done = false;
    for (std::string_view s : sections_done) done |= s == section;
    if (done) continue;
    sections_done.push_back(section);
    Append(out, "\n", section, ":\n");
    for (const auto& field : ConfigFields()) {
      if (field.key.substr(0, field.key.find('.')) != section) continue;
      AppendComment(field.help, "  ", out);
      Append(out, "  ", field.key.substr(section.size() + 1), ": ", ValueText(field, config), "\n");
    }
    if (section == "auth") {
      AppendStructured("credentials", kCredentialsHelp, CredentialFields(),
                       AsWritten(config.credentials), "  ", out);
    }
  }
  Append(out, "\n");
  AppendStructured(kNamespacesKey, kNamespacesHelp, NamespaceFields(), config.namespaces, "", out);
  return out;
}

std::string HelpText() {
  std::string out =
      "infercached: cache daemon for inference workers.\n\nUsage: infercached [OPTIONS]\n\n";
  for (const ProgramFlag& flag : kProgramFlags) {
    AppendHelp(Cat(flag.names, flag.value.empty() ? "" : " ", flag.value), flag.help, out);
  }
  const Config defaults;
  for (std::string_view group : Groups()) {
    Append(out, "\n", group, ":\n");
    for (const auto& field : ConfigFields()) {
      if (field.group != group) continue;
      const std::string kind = KindName(field.kind, field.choices);
      AppendHelp(Cat(FlagName(field.key),
                     field.kind == ValueKind::kBool ? Cat("[=", kind, "]") : Cat(" ", kind)),
                 Cat(field.help, " Default: ", ValueText(field, defaults), "."), out);
    }
  }
  Append(
      out,
      "\nEvery option may also be given in the environment (--grpc-listen is "
      "INFERCACHE_GRPC_LISTEN)\nor in the file (grpc.listen); the file alone holds `namespaces` "
      "and "
      "`auth.credentials`.\nFlags win over the environment, which wins over the file. Sizes: "
      "512MiB, 10GB. Durations:\n100ms, 30s, 5m. Exit status: 0 stopped as told, 1 runtime error, "
      "2 usage, 69 address or socket\nin use, 71 the system refused memory or a file, 78 "
      "configuration.\n");
  return out;
}

std::string ConfigReference() {
  const Config defaults;
  std::string out;
  for (std::string_view group : Groups()) {
    Append(out, "### ", group,
           "\n\n| key | flag | type | default | meaning |\n|---|---|---|---|---|\n");
    for (const auto& field : ConfigFields()) {
      if (field.group != group) continue;
      Append(out, "| `", field.key, "` | `", FlagName(field.key), "` | ",
             ReplaceAll(KindName(field.kind, field.choices), '|', " or "), " | `",
             ValueText(field, defaults), "` | ", field.help, " |\n");
    }
    Append(out, "\n");
  }
  Append(out, "### `", kNamespacesKey, "` (list, file only)\n\n", kNamespacesHelp, "\n\n",
         FieldTable(NamespaceFields()), "\n### `", kCredentialsKey, "` (list, file only)\n\n",
         kCredentialsHelp, " Each has a `token`, a `token_file` or a `certificate_name`.\n\n",
         FieldTable(CredentialFields()));
  return out;
}

}  // namespace infercache::server

#include "server/config_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <set>
#include <sstream>
#include <vector>

#include "common/unique_fd.h"
#include "server/config_values.h"
#include "server/options.h"
#include "server/text.h"

namespace infercache::server {
namespace {

class Reader {
 public:
  Reader(std::string_view name, Config& config, Origins& origins)
      : name_(name), config_(config), origins_(origins) {}

  // The map that holds the keys which start with `prefix` ("" or "grpc.").
  void ReadSection(const YAML::Node& node, const std::string& prefix) {
    if (node.IsNull()) return;  // an empty file or section
    if (!node.IsMap()) {
      Error(node, prefix.empty() ? "the file" : prefix.substr(0, prefix.size() - 1),
            "expected a map of keys");
      return;
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const auto key = Key(entry.first, prefix, seen);
      if (key.empty()) continue;
      if (const Field<Config>* field = FindField(ConfigFields(), key)) {
        if (ReadValue(*field, entry.second, key, config_)) origins_[key] = At(entry.second);
      } else if (key == kNamespacesKey) {
        config_.namespaces = ReadList(NamespaceFields(), entry.second, key);
      } else if (key == kCredentialsKey) {
        config_.credentials = ReadList(CredentialFields(), entry.second, key);
      } else if (IsSection(key)) {
        ReadSection(entry.second, key + ".");
      } else {
        UnknownKey(entry.first, key, TopLevelKeys());
      }
    }
  }

  void Error(const YAML::Node& node, std::string_view key, std::string_view what) {
    errors_.push_back(Cat(At(node), ": ", Escaped(key), ": ", what));
  }
  void SyntaxError(const YAML::Mark& mark, std::string_view what) {
    errors_.push_back(Cat(name_, ":", mark.line + 1, ":", mark.column + 1, ": ", what));
  }
  const std::vector<std::string>& errors() const { return errors_; }

 private:
  template <typename T>
  static const Field<T>* FindField(std::span<const Field<T>> fields, std::string_view key) {
    for (const Field<T>& field : fields) {
      if (field.key == key) return &field;
    }
    return nullptr;
  }

  static std::vector<std::string_view> TopLevelKeys() {
    std::vector<std::string_view> keys = {kNamespacesKey, kCredentialsKey};
    for (const auto& field : ConfigFields()) keys.push_back(field.key);
    return keys;
  }

  static bool IsSection(const std::string& key) {
    for (std::string_view known : TopLevelKeys()) {
      if (known.starts_with(key + ".")) return true;
    }
    return false;
  }

  std::string At(const YAML::Node& node) const {
    return Cat(name_, ":", std::max(node.Mark().line, 0) + 1);
  }

  void UnknownKey(const YAML::Node& node, std::string_view key,
                  const std::vector<std::string_view>& known) {
    const std::string_view nearest = NearestName(key, known);
    Error(node, key,
          nearest.empty() ? "unknown key" : Cat("unknown key; did you mean \"", nearest, "\"?"));
  }

  // prefix + the key's text; empty after an error.
  std::string Key(const YAML::Node& node, const std::string& prefix, std::set<std::string>& seen) {
    if (!node.IsScalar() || node.Scalar().empty()) {
      Error(node, Cat(prefix, "?"), "a key must be a plain text");
      return "";
    }
    std::string key = prefix + node.Scalar();
    if (!seen.insert(key).second) {
      Error(node, key, "is given twice");
      return "";
    }
    return key;
  }

  template <typename T>
  bool ReadValue(const Field<T>& field, const YAML::Node& node, const std::string& key, T& target) {
    const size_t errors_before = errors_.size();
    if (field.kind == ValueKind::kTextList) {
      ReadTextList(node, key, target.*std::get<std::vector<std::string> T::*>(field.member));
    } else if (field.kind == ValueKind::kTextMap) {
      ReadTextMap(node, key, target.*std::get<FingerprintEntries T::*>(field.member));
    } else if (!node.IsScalar()) {
      Error(node, key,
            Cat("expected one value of type ", KindName(field.kind, field.choices),
                node.IsNull() ? ", got nothing" : ", got a list or a map"));
    } else if (const auto status = SetValue(field, node.Scalar(), target); !status.ok()) {
      Error(node, key, Cat(status.message()));
    }
    return errors_.size() == errors_before;
  }

  void ReadTextList(const YAML::Node& node, const std::string& key, std::vector<std::string>& out) {
    if (!node.IsSequence()) {
      Error(node, key, "expected a list");
      return;
    }
    out.clear();  // of its default
    for (const auto& item : node) {
      if (item.IsScalar()) {
        out.push_back(item.Scalar());
      } else {
        Error(item, key, "expected a list of plain texts");
      }
    }
  }

  void ReadTextMap(const YAML::Node& node, const std::string& key, FingerprintEntries& out) {
    if (!node.IsMap()) {
      Error(node, key, "expected a map");
      return;
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.second.IsScalar()) {
        Error(entry.second, key, "expected a map of plain texts");
      } else if (!Key(entry.first, key + ".", seen).empty()) {
        out.emplace_back(entry.first.Scalar(), entry.second.Scalar());
      }
    }
  }

  template <typename T>
  std::vector<T> ReadList(std::span<const Field<T>> fields, const YAML::Node& node,
                          const std::string& key) {
    std::vector<T> items;
    if (!node.IsSequence()) {
      Error(node, key, "expected a list");
      return items;
    }
    for (const auto& item_node : node) {
      T& item = items.emplace_back();
      item.origin = At(item_node);
      ReadItem(fields, item_node, Cat(key, "[", items.size() - 1, "]"), item);
    }
    return items;
  }

  template <typename T>
  void ReadItem(std::span<const Field<T>> fields, const YAML::Node& node, const std::string& path,
                T& item) {
    if (!node.IsMap()) {
      Error(node, path, "expected a map of keys");
      return;
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = Key(entry.first, path + ".", seen);
      if (key.empty()) continue;
      if (const Field<T>* field = FindField(fields, entry.first.Scalar())) {
        ReadValue(*field, entry.second, key, item);
      } else {
        std::vector<std::string> paths;
        for (const Field<T>& f : fields) paths.push_back(Cat(path, ".", f.key));
        UnknownKey(entry.first, key, {paths.begin(), paths.end()});
      }
    }
  }

  const std::string_view name_;
  Config& config_;
  Origins& origins_;
  std::vector<std::string> errors_;
};

// Counts documents and does nothing else with them.
class DocumentCounter final : public YAML::EventHandler {
 public:
  // YAML::LoadAll finds documents without end where one begins with a comma: this looks for a
  // second one, and no further.
  explicit DocumentCounter(const std::string& text) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (count_ < 2 && parser.HandleNextDocument(*this)) {
    }
  }

  bool several() const { return count_ > 1; }
  const YAML::Mark& latest() const { return latest_; }

 private:
  void OnDocumentStart(const YAML::Mark& mark) override {
    ++count_;
    latest_ = mark;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  int count_ = 0;
  YAML::Mark latest_;
};

}  // namespace

absl::Status ApplyYaml(std::string_view text, std::string_view name, Config& config,
                       Origins& origins) {
  Reader reader(name, config, origins);
  // yaml-cpp reports by throwing; this is where that ends.
  try {
    const std::string content(text);
    if (const DocumentCounter documents(content); documents.several()) {
      reader.SyntaxError(
          documents.latest(),
          "the file holds more than one YAML document, or one that begins with a comma");
    } else {
      reader.ReadSection(YAML::Load(content), "");
    }
  } catch (const YAML::Exception& e) {
    reader.SyntaxError(e.mark, e.msg);
  }
  if (reader.errors().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(Join(reader.errors(), "\n"));
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, Cat("cannot read ", path));
  std::string content(kMaxConfigFileBytes + 1, '\0');
  size_t size = 0;
  while (size < content.size()) {
    const ssize_t n = read(fd.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, Cat("cannot read ", path));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxConfigFileBytes) {
    return absl::InvalidArgumentError(
        Cat(path, " is longer than ", FormatSize(kMaxConfigFileBytes)));
  }
  content.resize(size);
  return content;
}

}  // namespace infercache::server

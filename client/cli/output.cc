#include "client/cli/output.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "client/cli/keys.h"
#include "client/cli/units.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// In characters, which are columns for everything but wide scripts.
size_t Width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

void AppendCell(std::string& line, std::string_view cell, size_t width, Table::Align align,
                bool last) {
  const std::string padding(width - std::min(width, Width(cell)), ' ');
  if (align == Table::Align::kRight) line += padding;
  line += cell;
  if (align == Table::Align::kLeft && !last) line += padding;
}

// `index` is -1 for a field that is not repeated.
Json FieldJson(const Message& message, const FieldDescriptor& field, int index) {
  const auto& reflection = *message.GetReflection();
  const auto get = [&](auto single, auto repeated) {
    return index < 0 ? (reflection.*single)(message, &field)
                     : (reflection.*repeated)(message, &field, index);
  };
  using R = google::protobuf::Reflection;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return get(&R::GetInt32, &R::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return get(&R::GetInt64, &R::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return get(&R::GetUInt32, &R::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return get(&R::GetUInt64, &R::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return get(&R::GetDouble, &R::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return get(&R::GetFloat, &R::GetRepeatedFloat);
    case FieldDescriptor::CPPTYPE_BOOL:
      return get(&R::GetBool, &R::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return (index < 0 ? reflection.GetEnum(message, &field)
                        : reflection.GetRepeatedEnum(message, &field, index))
          ->name();
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text = get(&R::GetString, &R::GetRepeatedString);
      return field.type() == FieldDescriptor::TYPE_BYTES ? EscapeKey(text) : text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageJson(index < 0 ? reflection.GetMessage(message, &field)
                                   : reflection.GetRepeatedMessage(message, &field, index));
  }
  return nullptr;
}

std::string FieldText(const std::string& name, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (absl::EndsWith(name, "_bytes")) return FormatSize(value.get<double>());
  if (absl::EndsWith(name, "_ms")) return FormatElapsed(absl::Milliseconds(value.get<double>()));
  if (absl::EndsWith(name, "_seconds")) return FormatElapsed(absl::Seconds(value.get<double>()));
  return value.dump();
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string Table::Text(bool with_titles) const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    widths.push_back(std::max(columns_[i].min_width, Width(columns_[i].title)));
    for (const auto& row : rows_) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  const auto append = [&](const auto& cell_of) {
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) text += "  ";
      AppendCell(text, cell_of(i), widths[i], columns_[i].align, i + 1 == columns_.size());
    }
    text += '\n';
  };
  if (with_titles) append([&](size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) append([&](size_t i) -> const std::string& { return row[i]; });
  return text;
}

std::string FieldsText(const Fields& fields) {
  size_t width = 0;
  for (const auto& [name, value] : fields) width = std::max(width, Width(name));
  std::string text;
  for (const auto& [name, value] : fields) {
    AppendCell(text, name, width, Table::Align::kLeft, /*last=*/false);
    text += "  " + value + "\n";
  }
  return text;
}

std::string JsonLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json MessageJson(const Message& message) {
  Json json = Json::object();
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!field.is_repeated() && is_message && !message.GetReflection()->HasField(message, &field)) {
      json[field.name()] = nullptr;
      continue;
    }
    if (!field.is_repeated()) {
      json[field.name()] = FieldJson(message, field, -1);
      continue;
    }
    Json array = Json::array();
    const int size = message.GetReflection()->FieldSize(message, &field);
    for (int k = 0; k < size; ++k) array.push_back(FieldJson(message, field, k));
    json[field.name()] = std::move(array);
  }
  return json;
}

namespace {

void AppendFields(const Json& json, const std::string& prefix, Fields& fields) {
  for (const auto& [name, value] : json.items()) {
    if (value.is_object()) {
      AppendFields(value, prefix + name + ".", fields);
    } else if (!value.is_array() && !value.is_null()) {
      fields.emplace_back(prefix + name, FieldText(name, value));
    }
  }
}

}  // namespace

Fields MessageFields(const Message& message) {
  Fields fields;
  AppendFields(MessageJson(message), "", fields);
  return fields;
}

void Print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

bool FlushOutput() { return std::fflush(stdout) == 0 && std::ferror(stdout) == 0; }

}  // namespace infercache::cli

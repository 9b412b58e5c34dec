// What infercachectl prints: tables for people, JSON for programs.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace google::protobuf {
class Message;
}

namespace infercache::cli {

enum class OutputFormat { kTable, kJson };

using Json = nlohmann::ordered_json;

// Rows under titled columns that are as wide as their widest cell. The last column is not padded.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
    size_t min_width = 0;  // for rows that are printed in several tables
  };

  explicit Table(std::vector<Column> columns);
  // REQUIRES: one cell per column.
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  // With an end of line after every row.
  std::string Text(bool with_titles = true) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "name   value" a line, values aligned.
using Fields = std::vector<std::pair<std::string, std::string>>;
std::string FieldsText(const Fields& fields);

// One line. Bytes that are not UTF-8 become U+FFFD; keys are escaped before (keys.h).
std::string JsonLine(const Json& json);

// Every field of a message by its name: 64-bit numbers as numbers, bytes escaped like keys, absent
// messages as null.
Json MessageJson(const google::protobuf::Message& message);
// The same for people: sizes and times (fields named *_bytes, *_ms, *_seconds) with units, fields
// of nested messages as OUTER.INNER; repeated fields and absent messages left out.
Fields MessageFields(const google::protobuf::Message& message);

// To standard output. Failures show at the end, in FlushOutput.
void Print(std::string_view text);
// False if anything printed since the start did not reach its destination.
bool FlushOutput();

}  // namespace infercache::cli

#include "server/local/inline_put.h"

#include <google/protobuf/io/coded_stream.h>

#include "common/limits.h"
#include "infercache/v1/local.pb.h"

namespace infercache::local {
namespace {

using google::protobuf::io::CodedInputStream;

constexpr uint32_t Tag(int field, uint32_t wire_type) {
  return static_cast<uint32_t>(field) << 3 | wire_type;
}
constexpr uint32_t kVarint = 0;
constexpr uint32_t kBytes = 2;

constexpr uint32_t kId = Tag(v1::LocalRequest::kIdFieldNumber, kVarint);
constexpr uint32_t kPutInline = Tag(v1::LocalRequest::kPutInlineFieldNumber, kBytes);
constexpr uint32_t kItem = Tag(v1::PutInline::kItemsFieldNumber, kBytes);
constexpr uint32_t kObject = Tag(v1::PutInlineItem::kObjectFieldNumber, kBytes);
constexpr uint32_t kValue = Tag(v1::PutInlineItem::kValueFieldNumber, kBytes);

// A cursor over one message.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes)
      : bytes_(bytes),
        input_(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size())) {}

  bool at_end() const { return static_cast<size_t>(input_.CurrentPosition()) == bytes_.size(); }
  uint32_t ReadTag() { return input_.ReadTag(); }
  bool ReadVarint(uint64_t* value) { return input_.ReadVarint64(value); }
  bool ReadBytes(std::string_view* bytes) {
    uint32_t size = 0;
    if (!input_.ReadVarint32(&size)) return false;
    const auto position = static_cast<size_t>(input_.CurrentPosition());
    if (size > bytes_.size() - position) return false;
    *bytes = bytes_.substr(position, size);
    return input_.Skip(static_cast<int>(size));
  }

 private:
  const std::string_view bytes_;
  CodedInputStream input_;
};

bool FindItem(std::string_view item, InlinePutView* view) {
  Cursor cursor(item);
  if (cursor.ReadTag() != kObject || !cursor.ReadBytes(&view->object)) return false;
  view->value = {};
  if (cursor.at_end()) return true;
  return cursor.ReadTag() == kValue && cursor.ReadBytes(&view->value) && cursor.at_end();
}

}  // namespace

bool FindInlinePuts(std::string_view frame, InlinePutsView* views) {
  Cursor request(frame);
  views->id = 0;
  views->items.clear();
  uint32_t tag = request.ReadTag();
  if (tag == kId) {
    if (!request.ReadVarint(&views->id)) return false;
    tag = request.ReadTag();
  }
  std::string_view body;
  if (tag != kPutInline || !request.ReadBytes(&body) || !request.at_end()) return false;
  Cursor items(body);
  while (!items.at_end()) {
    std::string_view item;
    if (items.ReadTag() != kItem || !items.ReadBytes(&item)) return false;
    // One more than the limit is enough to be refused for it.
    if (views->items.size() <= kMaxItemsPerFrame && !FindItem(item, &views->items.emplace_back())) {
      return false;
    }
  }
  return true;
}

}  // namespace infercache::local

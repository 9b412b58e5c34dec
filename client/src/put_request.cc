#include "client/src/put_request.h"

#include <algorithm>
#include <cstring>

#include "convert/types.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

// Tag and length of a field that holds `bytes` bytes.
std::string FieldHead(int number, uint64_t bytes) {
  uint8_t buffer[20];
  uint8_t* end = CodedOutputStream::WriteTagToArray(
      WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), buffer);
  end = CodedOutputStream::WriteVarint64ToArray(bytes, end);
  return std::string(reinterpret_cast<char*>(buffer), static_cast<size_t>(end - buffer));
}

// The whole item but for the bytes of the value, which end it.
std::string ItemHead(const PutItem& item) {
  v1::PutItem proto;
  proto.set_key(item.key.data(), item.key.size());
  ToProto(item.info, proto.mutable_info());
  ToProto(item.parts, proto.mutable_parts());
  proto.set_overwrite(item.overwrite);
  const uint64_t value_bytes = ValueBytes(item);
  const std::string head =
      proto.SerializeAsString() + FieldHead(v1::PutItem::kValueFieldNumber, value_bytes);
  return FieldHead(v1::PutRequest::kItemsFieldNumber, head.size() + value_bytes) + head;
}

// A slice's bytes are ours to write until it is shared.
std::span<std::byte> Writable(grpc::Slice& slice) {
  return std::as_writable_bytes(std::span(const_cast<uint8_t*>(slice.begin()), slice.size()));
}

std::span<std::byte> Append(std::span<std::byte> destination, const std::string& bytes) {
  std::memcpy(destination.data(), bytes.data(), bytes.size());
  return destination.subspan(bytes.size());
}

}  // namespace

grpc::ByteBuffer MakePutRequest(const v1::Scope& scope, std::span<const PutItem> items) {
  const std::string scope_bytes = scope.SerializeAsString();
  std::vector<std::string> heads = {
      FieldHead(v1::PutRequest::kScopeFieldNumber, scope_bytes.size()) + scope_bytes};
  uint64_t total = heads[0].size();
  for (const PutItem& item : items) {
    heads.push_back(ItemHead(item));
    total += heads.back().size() + ValueBytes(item);
  }
  grpc::Slice slice(total);
  std::span<std::byte> rest = Append(Writable(slice), heads[0]);
  for (size_t i = 0; i < items.size(); ++i) {
    rest = Append(rest, heads[i + 1]);
    const uint64_t value_bytes = ValueBytes(items[i]);
    ValueReader(items[i].value).Read(rest.first(value_bytes));
    rest = rest.subspan(value_bytes);
  }
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer MakePutStreamHeader(const v1::Scope& scope, const PutItem& item,
                                     bool ends_request) {
  v1::PutStreamRequest request;
  v1::PutStreamHeader& header = *request.mutable_header();
  *header.mutable_scope() = scope;
  header.set_key(item.key.data(), item.key.size());
  ToProto(item.info, header.mutable_info());
  ToProto(item.parts, header.mutable_parts());
  header.set_overwrite(item.overwrite);
  header.set_size_bytes(ValueBytes(item));
  header.set_ends_request(ends_request);
  const grpc::Slice slice(request.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer MakePutStreamChunk(ValueReader& value, size_t bytes) {
  const std::string head = FieldHead(v1::PutStreamRequest::kChunkFieldNumber, bytes);
  grpc::Slice slice(head.size() + bytes);
  value.Read(Append(Writable(slice), head));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace infercache

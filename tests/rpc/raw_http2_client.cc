#include "tests/rpc/raw_http2_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace infercache::rpc {
namespace {

enum FrameType : uint8_t { kData = 0, kHeaders = 1, kSettings = 4, kPing = 6 };
constexpr uint8_t kAck = 1;
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;
constexpr size_t kFrameHeaderBytes = 9;

std::string BigEndian(uint32_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

std::string Frame(FrameType type, uint8_t flags, uint32_t stream, const std::string& payload) {
  return BigEndian(payload.size(), 3) + static_cast<char>(type) + static_cast<char>(flags) +
         BigEndian(stream, 4) + payload;
}

// HPACK: a literal without indexing, name and value shorter than 127 bytes.
std::string Header(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

}  // namespace

RawHttp2Client::RawHttp2Client(const std::string& socket_path, int port, Reading reading) {
  sockaddr_storage address = {};
  socklen_t size;
  if (socket_path.empty()) {
    auto& in = reinterpret_cast<sockaddr_in&>(address);
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    size = sizeof(in);
  } else {
    auto& un = reinterpret_cast<sockaddr_un&>(address);
    un.sun_family = AF_UNIX;
    socket_path.copy(un.sun_path, sizeof(un.sun_path) - 1);
    size = sizeof(un);
  }
  socket_ = UniqueFd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), size), 0)
      << strerror(errno);
  // SETTINGS with INITIAL_WINDOW_SIZE (4) of 64 KiB - 1, the default: far less than an object.
  Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
       Frame(kSettings, 0, 0, BigEndian(4, 2) + BigEndian(65535, 4)));
  if (reading == Reading::kOnlyTransport) reader_ = std::thread([this] { Run(); });
}

RawHttp2Client::~RawHttp2Client() {
  shutdown(socket_.get(), SHUT_RDWR);
  if (reader_.joinable()) reader_.join();
}

void RawHttp2Client::Call(const std::string& path, const std::string& message) {
  const std::string headers = Header(":method", "POST") + Header(":scheme", "http") +
                              Header(":path", path) + Header(":authority", "test") +
                              Header("te", "trailers") + Header("content-type", "application/grpc");
  const std::string body = std::string(1, '\0') + BigEndian(message.size(), 4) + message;
  Send(Frame(kHeaders, kEndHeaders, next_stream_, headers) +
       Frame(kData, kEndStream, next_stream_, body));
  next_stream_ += 2;
}

void RawHttp2Client::Send(const std::string& bytes) {
  // A server that has closed the connection is no failure of the test.
  [[maybe_unused]] const ssize_t sent =
      send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

void RawHttp2Client::Run() {
  std::string buffer;
  char bytes[65536];
  while (true) {
    const ssize_t count = recv(socket_.get(), bytes, sizeof(bytes), 0);
    if (count <= 0) break;
    buffer.append(bytes, count);
    while (buffer.size() >= kFrameHeaderBytes) {
      const auto* head = reinterpret_cast<const uint8_t*>(buffer.data());
      const size_t length = head[0] << 16 | head[1] << 8 | head[2];
      if (buffer.size() < kFrameHeaderBytes + length) break;
      const uint8_t type = head[3];
      const bool is_ack = (head[4] & kAck) != 0;
      const std::string payload = buffer.substr(kFrameHeaderBytes, length);
      buffer.erase(0, kFrameHeaderBytes + length);
      if (type == kSettings && !is_ack) Send(Frame(kSettings, kAck, 0, ""));
      if (type == kPing && !is_ack) Send(Frame(kPing, kAck, 0, payload));
    }
  }
  closed_ = true;
}

}  // namespace infercache::rpc

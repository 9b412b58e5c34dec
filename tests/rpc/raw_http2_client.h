// Just enough of an HTTP/2 client to be a bad one: it calls, and then never takes what it asked
// for.

#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "common/unique_fd.h"

namespace infercache::rpc {

class RawHttp2Client {
 public:
  enum class Reading {
    // Like a stopped process: nothing is read from the socket, pings stay unanswered.
    kNothing,
    // Like a program that never asks for its message: the transport is well and answers pings, but
    // opens no flow control window.
    kOnlyTransport,
  };

  // Connects to 127.0.0.1:port, or to a Unix socket if `socket_path` is not empty.
  RawHttp2Client(const std::string& socket_path, int port, Reading reading);
  ~RawHttp2Client();
  RawHttp2Client(const RawHttp2Client&) = delete;
  RawHttp2Client& operator=(const RawHttp2Client&) = delete;

  // Starts one more call of `path` ("/infercache.v1.Cache/Get") with one serialized message.
  void Call(const std::string& path, const std::string& message);
  // The server closed the connection. Only seen by a client that reads.
  bool closed() const { return closed_; }

 private:
  void Run();
  void Send(const std::string& bytes);

  UniqueFd socket_;
  uint32_t next_stream_ = 1;
  std::atomic<bool> closed_{false};
  std::thread reader_;
};

}  // namespace infercache::rpc

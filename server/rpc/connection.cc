#include "server/rpc/connection.h"

#include <sys/socket.h>

namespace infercache::rpc {

void Connection::Disconnect() const { shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace infercache::rpc

// The handler's side of one answer.
#pragma once

#include <memory>

#include "server/http.h"

namespace nanoflow {

class HttpConnection;

/// On the connection's thread; the last owner may drop it on any.
[[nodiscard]] std::shared_ptr<HttpExchange> make_exchange(
    std::shared_ptr<HttpConnection> connection);

}  // namespace nanoflow

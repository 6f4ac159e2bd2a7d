#include "server/http_listener.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

// A burst of clients waits here while the loop is busy; the kernel lowers it to somaxconn.
constexpr int kBacklog = 4096;
// Then connections that exist have their turn.
constexpr int kAcceptsPerTurn = 64;
// Without file descriptors or memory, accepting works again only when something was closed.
constexpr std::chrono::milliseconds kBackOff{100};
constexpr std::chrono::minutes kComplainEvery{1};

void set_option(int fd, int level, int name, int value) {
  // None of the options is vital, and an unusual socket may lack one.
  (void)::setsockopt(fd, level, name, &value, sizeof value);
}

// 0, or errno with `fd` closed again.
int listen_at(const addrinfo& address, uint16_t port, bool only_ipv6, int& fd) {
  fd = ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  sockaddr_storage at{};
  std::memcpy(&at, address.ai_addr, address.ai_addrlen);
  if (address.ai_family == AF_INET6) {
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, only_ipv6 ? 1 : 0);
    reinterpret_cast<sockaddr_in6&>(at).sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in&>(at).sin_port = htons(port);
  }
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&at), address.ai_addrlen) == 0 &&
      ::listen(fd, kBacklog) == 0)
    return 0;
  const int error = errno;
  ::close(fd);
  return error;
}

uint16_t port_of(int fd) {
  sockaddr_storage at{};
  socklen_t size = sizeof at;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size);
  return ntohs(at.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(at).sin6_port
                                        : reinterpret_cast<sockaddr_in&>(at).sin_port);
}

std::string address_text(const sockaddr_storage& at) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (at.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(at);
    ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return fmt::format("{}:{}", text.data(), ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(at);
  const bool is_mapped = IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr);
  ::inet_ntop(is_mapped ? AF_INET : AF_INET6, v6.sin6_addr.s6_addr + (is_mapped ? 12 : 0),
              text.data(), text.size());
  return fmt::format(fmt::runtime(is_mapped ? "{}:{}" : "[{}]:{}"), text.data(),
                     ntohs(v6.sin6_port));
}

[[noreturn]] void throw_cannot_listen(const std::string& host, uint16_t port, int error) {
  const std::string what = fmt::format("cannot listen on {} port {}: ", host, port);
  switch (error) {
    case EADDRINUSE:
      throw EnvironmentError(what + fmt::format("address in use; stop the program that uses port "
                                                "{} or choose another port",
                                                port));
    case EACCES: throw EnvironmentError(what + "no right to this port; choose one from 1024 on");
    case EADDRNOTAVAIL:
      throw EnvironmentError(what + "this machine does not have that address; 0.0.0.0 means all");
    default: throw EnvironmentError(what + std::strerror(error));
  }
}

}  // namespace

HttpListener::HttpListener(boost::asio::io_context& context, const std::string& host, uint16_t port,
                           Logger& logger)
    : context_(context), logger_(logger), port_(port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failed != 0)
    throw EnvironmentError(
        fmt::format("cannot listen on host \"{}\": {}; give an address or name "
                    "of this machine, or 0.0.0.0 for all",
                    host, ::gai_strerror(failed)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, ::freeaddrinfo);
  int error = EADDRNOTAVAIL;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    int fd = -1;
    const int why = listen_at(*a, port_, found->ai_next != nullptr, fd);
    if (why == 0) {
      sockets_.push_back(std::make_unique<Socket>(context_, fd));
      if (port_ == 0) port_ = port_of(fd);
    } else if (why == EADDRINUSE || sockets_.empty()) {
      error = why;
    }
    // A name's other addresses may be missing here (::1 without IPv6), but must not be another's.
    if (why == EADDRINUSE) sockets_.clear();
    if (why == EADDRINUSE) break;
  }
  if (sockets_.empty()) throw_cannot_listen(host, port, error);
}

void HttpListener::start(Accept accept) {
  accept_ = std::move(accept);
  for (const std::unique_ptr<Socket>& socket : sockets_) wait(*socket);
}

void HttpListener::close() {
  boost::system::error_code ignored;
  for (const std::unique_ptr<Socket>& socket : sockets_) socket->close(ignored);
}

void HttpListener::wait(Socket& socket) {
  socket.async_wait(Socket::wait_read, [this, &socket](const boost::system::error_code& error) {
    if (!error) accept_some(socket);
  });
}

void HttpListener::accept_some(Socket& socket) {
  for (int i = 0; i < kAcceptsPerTurn && socket.is_open(); ++i) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    const int fd = ::accept4(socket.native_handle(), reinterpret_cast<sockaddr*>(&peer), &size,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        return back_off(socket, errno);
      continue;  // that client has gone already, or its network has a pending error
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    // A client that vanished without a word (power, network) is noticed within two minutes.
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 15);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    accept_(fd, address_text(peer));
  }
  if (socket.is_open()) wait(socket);
}

void HttpListener::back_off(Socket& socket, int error) {
  const auto now = Clock::now();
  if (now >= next_complaint_) {
    next_complaint_ = now + kComplainEvery;
    logger_.warning("cannot accept connections: {}; clients wait (ulimit -n limits open files)",
                    std::strerror(error));
  }
  auto timer = std::make_shared<boost::asio::steady_timer>(context_, kBackOff);
  // The wait owns its timer; there is nothing to cancel, since closing takes no longer than it.
  timer->async_wait([this, timer, &socket](const boost::system::error_code&) {
    if (socket.is_open()) accept_some(socket);
  });
}

}  // namespace nanoflow

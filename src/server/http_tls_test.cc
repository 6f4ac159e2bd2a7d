// TLS: what is served, what is refused, and what is said about files that do not fit.
#include <fstream>
#include <memory>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "base/error.h"
#include "base/test_folder.h"
#include "server/http_test_support.h"

namespace nanoflow {
namespace {

using namespace std::chrono_literals;

template <auto free>
struct Free {
  template <class T>
  void operator()(T* object) const {
    free(object);
  }
};
using File = std::unique_ptr<std::FILE, Free<std::fclose>>;

// A self-signed certificate for "localhost" and its key, as PEM files.
void write_certificate(const std::string& certificate, const std::string& key,
                       const char* passphrase = nullptr) {
  const std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>> pair(EVP_EC_gen("P-256"));
  const std::unique_ptr<X509, Free<X509_free>> x509(X509_new());
  ASN1_INTEGER_set(X509_get_serialNumber(x509.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(x509.get()), 3600);
  X509_set_pubkey(x509.get(), pair.get());
  X509_NAME* name = X509_get_subject_name(x509.get());
  const std::string host = "localhost";
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(host.data()), -1, -1, 0);
  X509_set_issuer_name(x509.get(), name);
  ASSERT_GT(X509_sign(x509.get(), pair.get(), EVP_sha256()), 0);
  ASSERT_EQ(PEM_write_X509(File(std::fopen(certificate.c_str(), "w")).get(), x509.get()), 1);
  ASSERT_EQ(PEM_write_PrivateKey(File(std::fopen(key.c_str(), "w")).get(), pair.get(),
                                 passphrase != nullptr ? EVP_aes_128_cbc() : nullptr,
                                 reinterpret_cast<const unsigned char*>(passphrase),
                                 passphrase != nullptr ? 4 : 0, nullptr, nullptr),
            1);
}

class TlsClient {
 public:
  explicit TlsClient(TestClient client, int max_version = TLS1_3_VERSION,
                     const std::string& protocols = "")
      : client_(std::move(client)), context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_.get(), max_version);
    ssl_.reset(SSL_new(context_.get()));
    if (!protocols.empty())
      SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                          static_cast<unsigned>(protocols.size()));
    SSL_set_fd(ssl_.get(), client_.fd());
    connected_ = SSL_connect(ssl_.get()) == 1;
  }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] SSL* ssl() const { return ssl_.get(); }
  void send(const std::string& bytes) {
    EXPECT_EQ(SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size())),
              static_cast<int>(bytes.size()));
  }
  std::string read_until(std::string_view mark) {
    std::string got;
    char c = 0;
    while (!got.ends_with(mark) && SSL_read(ssl_.get(), &c, 1) == 1) got += c;
    return got;
  }
  void close() { client_.close(); }

 private:
  TestClient client_;
  std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>> context_;
  std::unique_ptr<SSL, Free<SSL_free>> ssl_;
  bool connected_ = false;
};

class HttpTls : public testing::Test {
 protected:
  void SetUp() override { write_certificate(certificate_, key_); }

  [[nodiscard]] HttpOptions options() const {
    HttpOptions options;
    options.tls_certificate = certificate_;
    options.tls_key = key_;
    return options;
  }
  // What the server says when it cannot use the files.
  [[nodiscard]] static std::string complaint(const std::string& certificate,
                                             const std::string& key) {
    Logger logger(LogLevel::kOff);
    TestHandler handler(echo);
    HttpOptions options;
    options.port = 0;
    options.tls_certificate = certificate;
    options.tls_key = key;
    try {
      const HttpServer server(options, handler, logger);
      return "no error";
    } catch (const EnvironmentError& error) {
      return error.what();
    }
  }

  TestFolder folder_;
  std::string certificate_ = (folder_ / "server.pem").string();
  std::string key_ = (folder_ / "server.key").string();
};

TEST_F(HttpTls, ServesRequestsAndLargeBodies) {
  TestServer server(echo, options());
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(server.client(), version);
    ASSERT_TRUE(client.connected());
    client.send(get("/a") + get("/b"));
    EXPECT_TRUE(client.read_until("[]").ends_with("GET /a  []"));
    EXPECT_TRUE(client.read_until("[]").ends_with("GET /b  []"));
    const std::string large(1'000'000, 'z');
    client.send(post("/", large));
    EXPECT_TRUE(client.read_until("]").ends_with("[" + large + "]"));
  }
}

TEST_F(HttpTls, Streams) {
  TestServer server(
      [](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
        exchange->begin_stream({});
        exchange->write("first");
        exchange->thread().post_after(5ms, [exchange] {
          exchange->write(std::string(3'000'000, 's'));
          exchange->end_stream();
        });
      },
      options());
  TlsClient client(server.client());
  client.send(get("/"));
  const std::string answer = client.read_until("\r\n0\r\n\r\n");
  EXPECT_NE(answer.find("\r\n\r\n5\r\nfirst\r\n2dc6c0\r\nsss"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("sss\r\n0\r\n\r\n"));
}

TEST_F(HttpTls, OldVersionsAndOtherProtocolsAreRefused) {
  TestServer server(echo, options());
  EXPECT_FALSE(TlsClient(server.client(), TLS1_1_VERSION).connected());
  EXPECT_FALSE(TlsClient(server.client(), TLS1_3_VERSION, "\x02h2").connected());
  const TlsClient both(server.client(), TLS1_3_VERSION, "\x02h2\x08http/1.1");
  ASSERT_TRUE(both.connected());
  const unsigned char* chosen = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(both.ssl(), &chosen, &size);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(chosen), size), "http/1.1");
}

TEST_F(HttpTls, PlainBytesAndSilenceDoNoHarm) {
  HttpOptions slow = options();
  slow.header_timeout = 50ms;
  TestServer server(echo, slow);
  TestClient plain = server.client();
  plain.send(get("/"));
  EXPECT_EQ(plain.read_to_end().find("HTTP/"), std::string::npos);
  TestClient silent = server.client();
  EXPECT_TRUE(silent.is_closed_within(2s));
  TlsClient no_request(server.client());
  EXPECT_TRUE(no_request.connected());
  EXPECT_TRUE(no_request.read_until("\r\n\r\n").starts_with("HTTP/1.1 408 "));
  no_request.close();
  EXPECT_TRUE(eventually([&] { return server->stats().open == 0; }));
}

TEST_F(HttpTls, AClientThatGoesIsNoticed) {
  std::atomic<bool> gone{false};
  std::shared_ptr<HttpExchange> held;
  TestServer server(
      [&](const HttpRequest&, std::shared_ptr<HttpExchange> exchange) {
        exchange->on_closed([&] {
          held = nullptr;
          gone = true;
        });
        held = std::move(exchange);
      },
      options());
  TlsClient client(server.client());
  client.send(get("/"));
  EXPECT_FALSE(gone);
  client.close();
  EXPECT_TRUE(eventually([&] { return gone.load(); }));
}

TEST_F(HttpTls, TooManyConnectionsAreToldSo) {
  HttpOptions one = options();
  one.max_connections = 1;
  TestServer server(echo, one);
  const TlsClient first(server.client());
  TlsClient second(server.client());
  EXPECT_TRUE(second.read_until("\r\n\r\n").starts_with("HTTP/1.1 503 "));
}

TEST_F(HttpTls, FilesThatDoNotFitAreNamed) {
  const std::string other_certificate = (folder_ / "other.pem").string();
  const std::string other_key = (folder_ / "other.key").string();
  const std::string locked_key = (folder_ / "locked.key").string();
  const std::string text = (folder_ / "text").string();
  write_certificate(other_certificate, locked_key, "word");
  write_certificate(other_certificate, other_key);
  std::ofstream(text) << "no PEM";
  const auto expect = [](const std::string& message, const std::string& file, const char* why) {
    EXPECT_TRUE(message.starts_with(file + ": ")) << message;
    EXPECT_NE(message.find(why), std::string::npos) << message;
  };
  EXPECT_EQ(complaint(certificate_, key_), "no error");
  expect(complaint((folder_ / "none").string(), key_), (folder_ / "none").string(), "No such file");
  expect(complaint(certificate_, (folder_ / "none").string()), (folder_ / "none").string(),
         "No such");
  expect(complaint(folder_.path().string(), key_), folder_.path().string(), "directory");
  expect(complaint(text, key_), text, "no certificate");
  expect(complaint(certificate_, text), text, "no private key");
  expect(complaint(certificate_, other_key), other_key, "not the key of the certificate");
  expect(complaint(certificate_, locked_key), locked_key, "encrypted");
  EXPECT_NE(complaint(certificate_, "").find("needs both"), std::string::npos);
}

}  // namespace
}  // namespace nanoflow

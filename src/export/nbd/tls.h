// TLS for the server's side of a connection: credentials, and a channel over another one. OpenSSL, with the
// bytes passed by hand, so that it waits as everything else does.
//
// TLS 1.2 and newer. Source: the NBD protocol specification, "TLS support"; QEMU's manual for the names of
// the files in a folder of credentials.
#pragma once

#include <openssl/ssl.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "crypto/secret.h"
#include "export/nbd/channel.h"

namespace cofre::nbd {

struct X509Settings {
  std::string folder;       // ca-cert.pem, server-cert.pem, server-key.pem, ca-crl.pem if there is one
  bool verify_peer = true;  // clients need a certificate of that authority
  std::optional<ConstBytes> key_password = std::nullopt;
};

// Immutable, for any number of connections on any lane.
class TlsCredentials {
 public:
  // Throw Error: kNotFound, kInvalidArgument for files that are no such.
  static std::shared_ptr<TlsCredentials> x509(const X509Settings& settings);
  // `folder`/keys.psk: lines of "user:key in hexadecimal digits".
  static std::shared_ptr<TlsCredentials> psk(const std::string& folder);

  // Of clients with a certificate, only the one with this distinguished name (RFC 4514) is let in. Before
  // first use.
  void allow_only(std::string distinguished_name) { allowed_ = std::move(distinguished_name); }

  SSL_CTX* context() const noexcept { return context_.get(); }
  // Empty: the peer may come in.
  std::string objection_to(SSL* peer) const;

 private:
  TlsCredentials();
  static unsigned give_psk(SSL* peer, const char* identity, unsigned char* key, unsigned most);

  struct FreeContext {
    void operator()(SSL_CTX* context) const noexcept { SSL_CTX_free(context); }
  };
  std::unique_ptr<SSL_CTX, FreeContext> context_;
  std::optional<std::string> allowed_;
  std::map<std::string, crypto::SecretBytes> keys_;
};

struct TlsOutcome {
  std::unique_ptr<Channel> channel;  // null: `fault` says why
  std::string fault;
};
// The server's part of the TLS handshake over `inner`, which it takes over.
io::task<TlsOutcome> accept_tls(const TlsCredentials& credentials, std::unique_ptr<Channel> inner,
                                io::Deadline deadline);

}  // namespace cofre::nbd

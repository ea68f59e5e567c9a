// What the server shows, and asks of its clients, in TLS: certificates, or keys shared beforehand.
#include <openssl/err.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "export/nbd/tls.h"

namespace cofre::nbd {
namespace {

std::string openssl_fault() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* const reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
  return reason != nullptr ? reason : "unknown fault";
}

std::string file_in(const std::string& folder, const char* name) {
  std::string path = folder + "/" + name;
  if (::access(path.c_str(), R_OK) != 0) fail_errno(errno, "cannot read '{}', which TLS needs", path);
  return path;
}

int give_password(char* into, int most, int, void* user) {
  const auto* const password = static_cast<const ConstBytes*>(user);
  if (password == nullptr || most < 0 || password->size() > static_cast<size_t>(most)) return -1;
  std::memcpy(into, password->data(), password->size());
  return static_cast<int>(password->size());
}

void load_key(SSL_CTX* context, const X509Settings& settings) {
  const std::string path = file_in(settings.folder, "server-key.pem");
  ConstBytes password = settings.key_password.value_or(ConstBytes{});
  SSL_CTX_set_default_passwd_cb(context, &give_password);
  SSL_CTX_set_default_passwd_cb_userdata(context, settings.key_password ? &password : nullptr);
  const int loaded = SSL_CTX_use_PrivateKey_file(context, path.c_str(), SSL_FILETYPE_PEM);
  SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
  if (loaded != 1 || SSL_CTX_check_private_key(context) != 1)
    fail(ErrorKind::kInvalidArgument, "'{}': no private key of the certificate beside it: {}", path,
         openssl_fault());
}

void load_authority(SSL_CTX* context, const X509Settings& settings) {
  const std::string authority = file_in(settings.folder, "ca-cert.pem");
  if (SSL_CTX_load_verify_file(context, authority.c_str()) != 1)
    fail(ErrorKind::kInvalidArgument, "'{}': no certificate: {}", authority, openssl_fault());
  if (STACK_OF(X509_NAME)* names = SSL_load_client_CA_file(authority.c_str()))
    SSL_CTX_set_client_CA_list(context, names);
  const std::string revoked = settings.folder + "/ca-crl.pem";
  if (::access(revoked.c_str(), F_OK) != 0) return;
  if (SSL_CTX_load_verify_file(context, revoked.c_str()) != 1)
    fail(ErrorKind::kInvalidArgument, "'{}': no list of revoked certificates: {}", revoked, openssl_fault());
  X509_STORE_set_flags(SSL_CTX_get_cert_store(context), X509_V_FLAG_CRL_CHECK);
}

int digit_of(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nothing: these are no pairs of hexadecimal digits.
std::optional<crypto::SecretBytes> decode_hex(std::string_view text) {
  if (text.empty() || text.size() % 2 != 0 || text.size() > size_t{2} * PSK_MAX_PSK_LEN) return std::nullopt;
  crypto::SecretBytes key(text.size() / 2);
  for (size_t i = 0; i < key.bytes().size(); ++i) {
    const int high = digit_of(text[2 * i]);
    const int low = digit_of(text[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    key.bytes()[i] = static_cast<std::byte>(high << 4 | low);
  }
  return key;
}

}  // namespace

TlsCredentials::TlsCredentials() : context_(SSL_CTX_new(TLS_server_method())) {
  if (!context_) throw std::bad_alloc();
  SSL_CTX* const context = context_.get();
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_dh_auto(context, 1);
  SSL_CTX_set_app_data(context, this);
}

std::shared_ptr<TlsCredentials> TlsCredentials::x509(const X509Settings& settings) {
  std::shared_ptr<TlsCredentials> credentials(new TlsCredentials);
  SSL_CTX* const context = credentials->context();
  const std::string certificate = file_in(settings.folder, "server-cert.pem");
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1)
    fail(ErrorKind::kInvalidArgument, "'{}': no certificate: {}", certificate, openssl_fault());
  load_key(context, settings);
  if (settings.verify_peer) {
    load_authority(context, settings);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return credentials;
}

std::shared_ptr<TlsCredentials> TlsCredentials::psk(const std::string& folder) {
  std::shared_ptr<TlsCredentials> credentials(new TlsCredentials);
  const std::string path = file_in(folder, "keys.psk");
  std::ifstream file(path);
  for (std::string line; std::getline(file, line); OPENSSL_cleanse(line.data(), line.size())) {
    if (line.empty() || line.starts_with('#')) continue;
    const size_t colon = line.rfind(':');
    std::optional<crypto::SecretBytes> key;
    if (colon != std::string::npos && colon > 0) key = decode_hex(std::string_view(line).substr(colon + 1));
    if (!key)
      fail(ErrorKind::kInvalidArgument, "'{}': a line that is not 'user:key in hexadecimal digits'", path);
    credentials->keys_.insert_or_assign(line.substr(0, colon), std::move(*key));
  }
  if (credentials->keys_.empty()) fail(ErrorKind::kInvalidArgument, "'{}' holds no key", path);
  SSL_CTX* const context = credentials->context();
  if (SSL_CTX_set_cipher_list(context, "kECDHEPSK:kDHEPSK:kPSK:!eNULL") != 1)
    fail(ErrorKind::kUnsupported, "OpenSSL has no ciphers for shared keys here: {}", openssl_fault());
  SSL_CTX_set_psk_server_callback(context, &give_psk);
  return credentials;
}

unsigned TlsCredentials::give_psk(SSL* peer, const char* identity, unsigned char* key, unsigned most) {
  const auto* const credentials =
      static_cast<const TlsCredentials*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(peer)));
  const auto found = credentials->keys_.find(identity != nullptr ? identity : "");
  if (found == credentials->keys_.end() || found->second.bytes().size() > most) return 0;
  const ConstBytes bytes = found->second.bytes();
  std::memcpy(key, bytes.data(), bytes.size());
  return static_cast<unsigned>(bytes.size());
}

std::string TlsCredentials::objection_to(SSL* peer) const {
  if (!allowed_) return {};
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(SSL_get1_peer_certificate(peer), &X509_free);
  if (!certificate) return "the client has no certificate, and only one is allowed";
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> text(BIO_new(BIO_s_mem()), &BIO_free_all);
  X509_NAME_print_ex(text.get(), X509_get_subject_name(certificate.get()), 0,
                     XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  char* data = nullptr;
  const long length = BIO_get_mem_data(text.get(), &data);
  const std::string name(data, static_cast<size_t>(std::max(length, 0L)));
  return name == *allowed_ ? std::string() : "'" + name + "' is not allowed";
}

}  // namespace cofre::nbd

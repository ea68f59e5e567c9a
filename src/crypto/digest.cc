#include "crypto/digest.h"

#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "crypto/gcrypt.h"
#include "crypto/secret.h"

namespace cofre::crypto {
namespace {

struct Entry {
  DigestAlgorithm algorithm;
  std::string_view name;
  const char* openssl_name;
  int gcrypt_id;
  size_t bytes;
};

// In the order of the enumeration.
constexpr std::array<Entry, 7> kEntries = {{
    {DigestAlgorithm::md5, "md5", "MD5", GCRY_MD_MD5, 16},
    {DigestAlgorithm::sha1, "sha1", "SHA1", GCRY_MD_SHA1, 20},
    {DigestAlgorithm::sha224, "sha224", "SHA2-224", GCRY_MD_SHA224, 28},
    {DigestAlgorithm::sha256, "sha256", "SHA2-256", GCRY_MD_SHA256, 32},
    {DigestAlgorithm::sha384, "sha384", "SHA2-384", GCRY_MD_SHA384, 48},
    {DigestAlgorithm::sha512, "sha512", "SHA2-512", GCRY_MD_SHA512, 64},
    {DigestAlgorithm::ripemd160, "ripemd160", "RIPEMD160", GCRY_MD_RMD160, 20},
}};

const Entry& entry_of(DigestAlgorithm algorithm) noexcept {
  return kEntries[static_cast<size_t>(algorithm)];
}

// Null when OpenSSL's loaded providers have it not (MD5 in a FIPS set-up, RIPEMD-160 before 3.0.7). Fetched
// once: a fetch costs more than the digest of a key.
const EVP_MD* openssl_digest(DigestAlgorithm algorithm) {
  static const std::array<EVP_MD*, kEntries.size()> fetched = [] {
    std::array<EVP_MD*, kEntries.size()> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = EVP_MD_fetch(nullptr, kEntries[i].openssl_name, nullptr);
    return all;
  }();
  return fetched[static_cast<size_t>(algorithm)];
}

}  // namespace

size_t digest_bytes(DigestAlgorithm algorithm) noexcept {
  return entry_of(algorithm).bytes;
}

std::string_view digest_name(DigestAlgorithm algorithm) noexcept {
  return entry_of(algorithm).name;
}

std::optional<DigestAlgorithm> parse_digest(std::string_view name) noexcept {
  for (const Entry& entry : kEntries)
    if (entry.name == name) return entry.algorithm;
  return std::nullopt;
}

struct Digest::State {
  DigestAlgorithm algorithm;
  const EVP_MD* openssl_md = nullptr;
  EVP_MD_CTX* openssl = nullptr;
  gcry_md_hd_t gcrypt = nullptr;

  explicit State(DigestAlgorithm which) : algorithm(which) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    EVP_MD_CTX_free(openssl);
    if (gcrypt != nullptr) gcry_md_close(gcrypt);
  }
};

Digest::Digest(DigestAlgorithm algorithm) : state_(std::make_unique<State>(algorithm)) {
  state_->openssl_md = openssl_digest(algorithm);
  if (state_->openssl_md != nullptr) {
    state_->openssl = EVP_MD_CTX_new();
    if (state_->openssl != nullptr && EVP_DigestInit_ex2(state_->openssl, state_->openssl_md, nullptr) == 1)
      return;
    EVP_MD_CTX_free(std::exchange(state_->openssl, nullptr));
  }
  ensure_gcrypt();
  if (gcry_md_open(&state_->gcrypt, entry_of(algorithm).gcrypt_id, 0) != 0)
    fail(ErrorKind::kUnsupported, "neither OpenSSL nor libgcrypt computes the digest {} here",
         digest_name(algorithm));
}

Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;
Digest::~Digest() = default;

void Digest::update(ConstBytes bytes) {
  if (bytes.empty()) return;
  if (state_->openssl == nullptr)
    gcry_md_write(state_->gcrypt, bytes.data(), bytes.size());
  else if (EVP_DigestUpdate(state_->openssl, bytes.data(), bytes.size()) != 1)
    fail(ErrorKind::kUnsupported, "OpenSSL fails to compute the digest {}", digest_name(state_->algorithm));
}

void Digest::finish(Bytes out) {
  const Entry& entry = entry_of(state_->algorithm);
  if (out.size() != entry.bytes)
    fail(ErrorKind::kInvalidArgument, "the digest {} is {} bytes long, not {}", entry.name, entry.bytes,
         out.size());
  if (state_->openssl == nullptr) {
    std::memcpy(out.data(), gcry_md_read(state_->gcrypt, entry.gcrypt_id), entry.bytes);
    gcry_md_reset(state_->gcrypt);
    return;
  }
  if (EVP_DigestFinal_ex(state_->openssl, reinterpret_cast<unsigned char*>(out.data()), nullptr) != 1 ||
      EVP_DigestInit_ex2(state_->openssl, state_->openssl_md, nullptr) != 1)
    fail(ErrorKind::kUnsupported, "OpenSSL fails to compute the digest {}", entry.name);
}

void digest(DigestAlgorithm algorithm, ConstBytes in, Bytes out) {
  Digest whole(algorithm);
  whole.update(in);
  whole.finish(out);
}

}  // namespace cofre::crypto

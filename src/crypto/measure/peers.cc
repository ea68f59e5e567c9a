// What is timed of others: OpenSSL's EVP interface and libgcrypt, one call a sector.
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <utility>

#include "base/error.h"
#include "crypto/gcrypt.h"
#include "crypto/measure/buffers.h"
#include "crypto/measure/speed.h"
#include "crypto/random.h"
#include "crypto/secret.h"

namespace cofre::crypto {
namespace {

constexpr size_t kIvBytes = 16;

const EVP_CIPHER* openssl_cipher(const CipherSpec& spec) {
  const bool xts = spec.mode == CipherMode::xts;
  switch (spec.algorithm) {
    case CipherAlgorithm::aes128:
      return xts ? EVP_aes_128_xts() : EVP_aes_128_cbc();
    case CipherAlgorithm::aes192:
      return xts ? nullptr : EVP_aes_192_cbc();
    case CipherAlgorithm::aes256:
      return xts ? EVP_aes_256_xts() : EVP_aes_256_cbc();
    default:
      return nullptr;
  }
}

int gcrypt_algorithm(CipherAlgorithm algorithm) {
  switch (algorithm) {
    case CipherAlgorithm::aes128:
      return GCRY_CIPHER_AES128;
    case CipherAlgorithm::aes192:
      return GCRY_CIPHER_AES192;
    case CipherAlgorithm::aes256:
      return GCRY_CIPHER_AES256;
    default:
      return GCRY_CIPHER_NONE;
  }
}

const uint8_t* octets(const SecretBytes& bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

// Goes over the sectors of a run; a library encrypts or decrypts one.
class PeerSubject : public SpeedSubject {
 public:
  PeerSubject(const SpeedCase& what, std::shared_ptr<SpeedBuffers> buffers)
      : what_(what), buffers_(std::move(buffers)) {}

  size_t work(size_t times) final {
    const auto* source = reinterpret_cast<const uint8_t*>(buffers_->source(what_.run_bytes).data());
    auto* destination = reinterpret_cast<uint8_t*>(buffers_->destination(what_.run_bytes).data());
    for (size_t i = 0; i < times; ++i)
      for (size_t at = 0; at < what_.run_bytes; at += what_.sector_bytes) {
        uint8_t iv[kIvBytes] = {};
        store_le<uint64_t>(iv, sector_++);
        work_sector(iv, source + at, destination + at);
      }
    return times * what_.run_bytes;
  }

 protected:
  virtual void work_sector(const uint8_t* iv, const uint8_t* source, uint8_t* destination) = 0;

  SecretBytes random_key() const {
    SecretBytes key(what_.spec.key_bytes());
    random_bytes(key.bytes());
    return key;
  }
  bool encrypts() const { return what_.direction == Direction::encrypt; }
  size_t sector_bytes() const { return what_.sector_bytes; }

  [[noreturn]] void refuse(const char* library) const {
    fail(ErrorKind::kUnsupported, "{} does not take the cipher {}", library, what_.spec.to_string());
  }

 private:
  SpeedCase what_;
  std::shared_ptr<SpeedBuffers> buffers_;
  uint64_t sector_ = 0;
};

class OpensslSubject final : public PeerSubject {
 public:
  OpensslSubject(const SpeedCase& what, std::shared_ptr<SpeedBuffers> buffers)
      : PeerSubject(what, std::move(buffers)), context_(EVP_CIPHER_CTX_new()) {
    const EVP_CIPHER* cipher = openssl_cipher(what.spec);
    const SecretBytes key = random_key();
    if (!context_ || cipher == nullptr ||
        EVP_CipherInit_ex(context_.get(), cipher, nullptr, octets(key), nullptr, encrypts()) != 1 ||
        EVP_CIPHER_CTX_set_padding(context_.get(), 0) != 1)
      refuse("OpenSSL");
  }

 private:
  void work_sector(const uint8_t* iv, const uint8_t* source, uint8_t* destination) override {
    int length = 0;
    if (EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr, iv, -1) != 1 ||
        EVP_CipherUpdate(context_.get(), destination, &length, source, static_cast<int>(sector_bytes())) != 1)
      refuse("OpenSSL");
  }

  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
};

class GcryptSubject final : public PeerSubject {
 public:
  GcryptSubject(const SpeedCase& what, std::shared_ptr<SpeedBuffers> buffers)
      : PeerSubject(what, std::move(buffers)) {
    ensure_gcrypt();
    const int mode = what.spec.mode == CipherMode::xts ? GCRY_CIPHER_MODE_XTS : GCRY_CIPHER_MODE_CBC;
    const SecretBytes key = random_key();
    gcry_cipher_hd_t raw = nullptr;
    if (gcry_cipher_open(&raw, gcrypt_algorithm(what.spec.algorithm), mode, 0) != 0) refuse("libgcrypt");
    handle_.reset(raw);
    if (gcry_cipher_setkey(raw, key.data(), key.size()) != 0) refuse("libgcrypt");
  }

 private:
  void work_sector(const uint8_t* iv, const uint8_t* source, uint8_t* destination) override {
    const auto function = encrypts() ? gcry_cipher_encrypt : gcry_cipher_decrypt;
    if (gcry_cipher_setiv(handle_.get(), iv, kIvBytes) != 0 ||
        function(handle_.get(), destination, sector_bytes(), source, sector_bytes()) != 0)
      refuse("libgcrypt");
  }

  struct Close {
    void operator()(gcry_cipher_hd_t handle) const { gcry_cipher_close(handle); }
  };
  std::unique_ptr<gcry_cipher_handle, Close> handle_;
};

}  // namespace

std::unique_ptr<SpeedSubject> make_openssl_subject(const SpeedCase& what,
                                                   std::shared_ptr<SpeedBuffers> buffers) {
  if (what.spec.iv == IvGenerator::essiv) return nullptr;
  return std::make_unique<OpensslSubject>(what, std::move(buffers));
}

std::unique_ptr<SpeedSubject> make_gcrypt_subject(const SpeedCase& what,
                                                  std::shared_ptr<SpeedBuffers> buffers) {
  if (what.spec.iv == IvGenerator::essiv) return nullptr;
  return std::make_unique<GcryptSubject>(what, std::move(buffers));
}

std::string openssl_name() {
  return fmt::format("OpenSSL {}", OpenSSL_version(OPENSSL_VERSION_STRING));
}

std::string gcrypt_name() {
  ensure_gcrypt();
  return fmt::format("libgcrypt {}", gcry_check_version(nullptr));
}

}  // namespace cofre::crypto

#include "crypto/reference.h"

#include <nettle/serpent.h>
#include <nettle/twofish.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include <memory>
#include <stdexcept>

#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

struct Freed {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

ByteVector openssl_ecb(const EVP_CIPHER* cipher, ConstBytes key, ConstBytes in, bool encrypt) {
  const std::unique_ptr<EVP_CIPHER_CTX, Freed> context(EVP_CIPHER_CTX_new());
  ByteVector out(in.size());
  int length = 0;
  if (EVP_CipherInit_ex(context.get(), cipher, nullptr, octets(key.data()), nullptr, encrypt) != 1 ||
      EVP_CIPHER_CTX_set_padding(context.get(), 0) != 1 ||
      EVP_CipherUpdate(context.get(), octets(out.data()), &length, octets(in.data()),
                       static_cast<int>(in.size())) != 1)
    throw std::runtime_error("OpenSSL fails as a reference");
  return out;
}

ReferenceCipher openssl_cipher(const EVP_CIPHER* cipher, ConstBytes key) {
  const ByteVector copy(key.begin(), key.end());
  return {[=](ConstBytes in) { return openssl_ecb(cipher, copy, in, true); },
          [=](ConstBytes in) { return openssl_ecb(cipher, copy, in, false); }};
}

template <typename Context>
ReferenceCipher nettle_cipher(ConstBytes key, void (*set_key)(Context*, size_t, const uint8_t*),
                              void (*encrypt)(const Context*, size_t, uint8_t*, const uint8_t*),
                              void (*decrypt)(const Context*, size_t, uint8_t*, const uint8_t*)) {
  auto context = std::make_shared<Context>();
  set_key(context.get(), key.size(), octets(key.data()));
  const auto with = [context](auto function) {
    return [=](ConstBytes in) {
      ByteVector out(in.size());
      function(context.get(), in.size(), octets(out.data()), octets(in.data()));
      return out;
    };
  };
  return {with(encrypt), with(decrypt)};
}

// CAST5 is in OpenSSL's legacy provider; loading one by hand takes away the automatic default.
const EVP_CIPHER* openssl_cast5() {
  static OSSL_PROVIDER* const legacy = OSSL_PROVIDER_load(nullptr, "legacy");
  static OSSL_PROVIDER* const standard = OSSL_PROVIDER_load(nullptr, "default");
  if (legacy == nullptr || standard == nullptr) throw std::runtime_error("OpenSSL has no legacy provider");
  return EVP_cast5_ecb();
}

// A sector number as the IV generators make it, before ESSIV.
ByteVector sector_iv(const CipherSpec& spec, uint64_t number) {
  ByteVector iv(spec.block_bytes());
  const size_t significant = spec.iv == IvGenerator::plain ? 4 : 8;
  for (size_t i = 0; i < significant; ++i) iv[i] = static_cast<std::byte>(number >> (8 * i));
  return iv;
}

void add_to(std::byte* target, const std::byte* other, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) target[i] ^= other[i];
}

// IEEE 1619 section 5.2: the 16 bytes are a number, the lowest byte first.
void times_x(ByteVector& tweak) {
  unsigned carry = 0;
  for (std::byte& byte : tweak) {
    const unsigned value = std::to_integer<unsigned>(byte) * 2 + carry;
    byte = static_cast<std::byte>(value & 0xff);
    carry = value >> 8;
  }
  if (carry != 0) tweak[0] ^= std::byte{0x87};
}

void count_up(ByteVector& counter) {
  for (size_t i = counter.size(); i-- > 0;) {
    counter[i] = static_cast<std::byte>(std::to_integer<unsigned>(counter[i]) + 1);
    if (counter[i] != std::byte{0}) return;
  }
}

void encrypt_cbc(const ReferenceCipher& cipher, ByteVector iv, Bytes sector) {
  for (size_t at = 0; at < sector.size(); at += iv.size()) {
    add_to(iv.data(), sector.data() + at, iv.size());
    iv = cipher.encrypt(iv);
    std::copy(iv.begin(), iv.end(), sector.begin() + static_cast<ptrdiff_t>(at));
  }
}

// XTS and CTR: what is added before and after the cipher does not depend on the text.
void encrypt_xts(const ReferenceCipher& cipher, ByteVector tweak, Bytes sector) {
  ByteVector tweaks;
  for (size_t at = 0; at < sector.size(); at += tweak.size(), times_x(tweak))
    tweaks.insert(tweaks.end(), tweak.begin(), tweak.end());
  add_to(sector.data(), tweaks.data(), sector.size());
  const ByteVector encrypted = cipher.encrypt(sector);
  std::copy(encrypted.begin(), encrypted.end(), sector.begin());
  add_to(sector.data(), tweaks.data(), sector.size());
}

void encrypt_ctr(const ReferenceCipher& cipher, ByteVector counter, Bytes sector) {
  ByteVector counters;
  for (size_t at = 0; at < sector.size(); at += counter.size(), count_up(counter))
    counters.insert(counters.end(), counter.begin(), counter.end());
  const ByteVector stream = cipher.encrypt(counters);
  add_to(sector.data(), stream.data(), sector.size());
}

void encrypt_ecb(const ReferenceCipher& cipher, Bytes sector) {
  const ByteVector encrypted = cipher.encrypt(sector);
  std::copy(encrypted.begin(), encrypted.end(), sector.begin());
}

ByteVector openssl_digest(DigestAlgorithm algorithm, ConstBytes in) {
  ByteVector out(digest_bytes(algorithm));
  const EVP_MD* md = EVP_get_digestbyname(std::string(digest_name(algorithm)).c_str());
  if (md == nullptr || EVP_Digest(in.data(), in.size(), octets(out.data()), nullptr, md, nullptr) != 1)
    throw std::runtime_error("OpenSSL fails as a reference for a digest");
  return out;
}

}  // namespace

ReferenceCipher reference_cipher(CipherAlgorithm algorithm, ConstBytes key) {
  switch (algorithm) {
    case CipherAlgorithm::aes128:
      return openssl_cipher(EVP_aes_128_ecb(), key);
    case CipherAlgorithm::aes192:
      return openssl_cipher(EVP_aes_192_ecb(), key);
    case CipherAlgorithm::aes256:
      return openssl_cipher(EVP_aes_256_ecb(), key);
    case CipherAlgorithm::cast5_128:
      return openssl_cipher(openssl_cast5(), key);
    case CipherAlgorithm::sm4:
      return openssl_cipher(EVP_sm4_ecb(), key);
    case CipherAlgorithm::serpent128:
    case CipherAlgorithm::serpent192:
    case CipherAlgorithm::serpent256:
      return nettle_cipher<serpent_ctx>(key, serpent_set_key, serpent_encrypt, serpent_decrypt);
    case CipherAlgorithm::twofish128:
    case CipherAlgorithm::twofish192:
    case CipherAlgorithm::twofish256:
      return nettle_cipher<twofish_ctx>(key, twofish_set_key, twofish_encrypt, twofish_decrypt);
  }
  throw std::runtime_error("no such cipher");
}

std::vector<std::byte> reference_encrypt(const CipherSpec& spec, ConstBytes key, uint32_t sector_bytes,
                                         uint32_t iv_units_per_sector, uint64_t first_sector,
                                         ConstBytes plain) {
  const size_t half = spec.mode == CipherMode::xts ? key.size() / 2 : key.size();
  const ReferenceCipher cipher = reference_cipher(spec.algorithm, key.first(half));
  ReferenceCipher tweak_cipher, essiv_cipher;
  if (spec.mode == CipherMode::xts) tweak_cipher = reference_cipher(spec.algorithm, key.last(half));
  if (spec.iv == IvGenerator::essiv) {
    const ByteVector hashed = openssl_digest(spec.essiv_digest, key);
    essiv_cipher = reference_cipher(cipher_of_same_family(spec.algorithm, hashed.size()).value(), hashed);
  }
  ByteVector out(plain.begin(), plain.end());
  for (size_t i = 0; i < plain.size() / sector_bytes; ++i) {
    const Bytes sector = Bytes(out).subspan(i * sector_bytes, sector_bytes);
    ByteVector iv = sector_iv(spec, first_sector + i * iv_units_per_sector);
    if (spec.iv == IvGenerator::essiv) iv = essiv_cipher.encrypt(iv);
    switch (spec.mode) {
      case CipherMode::ecb:
        encrypt_ecb(cipher, sector);
        break;
      case CipherMode::cbc:
        encrypt_cbc(cipher, iv, sector);
        break;
      case CipherMode::xts:
        encrypt_xts(cipher, tweak_cipher.encrypt(iv), sector);
        break;
      case CipherMode::ctr:
        encrypt_ctr(cipher, iv, sector);
        break;
    }
  }
  return out;
}

}  // namespace cofre::crypto

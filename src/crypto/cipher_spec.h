// Which cipher, in which mode, with which IVs: the value that headers, options and SectorCipher share, and
// its spellings. Any lane; nothing here holds a key.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "crypto/digest.h"

namespace cofre::crypto {

enum class CipherAlgorithm {
  aes128,
  aes192,
  aes256,
  serpent128,
  serpent192,
  serpent256,
  twofish128,
  twofish192,
  twofish256,
  cast5_128,
  sm4,
};

enum class CipherMode { ecb, cbc, xts, ctr };

// How a sector number becomes an IV. plain: 32-bit little-endian, wraps. plain64: 64-bit little-endian.
// essiv: the plain64 IV encrypted with the same cipher under the digest of the key.
enum class IvGenerator { none, plain, plain64, essiv };

struct CipherSpec {
  CipherAlgorithm algorithm = CipherAlgorithm::aes256;
  CipherMode mode = CipherMode::xts;
  IvGenerator iv = IvGenerator::plain64;
  DigestAlgorithm essiv_digest = DigestAlgorithm::sha256;  // matters with IvGenerator::essiv only

  // The bytes of key it takes: XTS takes two keys of the cipher.
  size_t key_bytes() const noexcept;
  size_t block_bytes() const noexcept;

  // Throws Error kInvalidArgument for what cannot be (XTS with a 64-bit block, a mode without its IV, an
  // ESSIV digest whose length is no key length of the cipher) and kUnsupported for what no library here
  // computes.
  void validate() const;

  // "aes-256-xts-plain64", "aes-256-cbc-essiv:sha256": for messages.
  std::string to_string() const;

  bool operator==(const CipherSpec& other) const noexcept {
    return algorithm == other.algorithm && mode == other.mode && iv == other.iv &&
           (iv != IvGenerator::essiv || essiv_digest == other.essiv_digest);
  }
};

// The bytes of one key of the cipher, and of its block.
size_t cipher_key_bytes(CipherAlgorithm algorithm) noexcept;
size_t cipher_block_bytes(CipherAlgorithm algorithm) noexcept;

// The member of `algorithm`'s family (aes, serpent, twofish ...) whose key is `key_bytes` long.
std::optional<CipherAlgorithm> cipher_of_same_family(CipherAlgorithm algorithm, size_t key_bytes) noexcept;

// QEMU's names: "aes-256", "serpent-256", "cast5-128", "sm4"; "xts"; "plain64". There is no name for
// IvGenerator::none: iv_generator_name gives "".
std::string_view cipher_algorithm_name(CipherAlgorithm algorithm) noexcept;
std::optional<CipherAlgorithm> parse_cipher_algorithm(std::string_view name) noexcept;
std::string_view cipher_mode_name(CipherMode mode) noexcept;
std::optional<CipherMode> parse_cipher_mode(std::string_view name) noexcept;
std::string_view iv_generator_name(IvGenerator iv) noexcept;
std::optional<IvGenerator> parse_iv_generator(std::string_view name) noexcept;

// The LUKS1 header's spelling: cipher-name "aes", cipher-mode "xts-plain64", "cbc-essiv:sha256", "ecb".
std::string_view luks_cipher_name(const CipherSpec& spec) noexcept;
std::string luks_cipher_mode(const CipherSpec& spec);
// The header's key-bytes tells aes-128 from aes-256. The result is valid (validate()). Throws Error
// kUnsupported for names that Cofre does not know, kInvalidArgument for key lengths the cipher has not.
CipherSpec parse_luks_cipher(std::string_view cipher_name, std::string_view cipher_mode, size_t key_bytes);

}  // namespace cofre::crypto

#include "crypto/cipher_spec.h"

#include <array>

#include "base/error.h"

namespace cofre::crypto {
namespace {

enum class Family { aes, serpent, twofish, cast5, sm4 };

struct Cipher {
  CipherAlgorithm algorithm;
  Family family;
  std::string_view name;       // QEMU's
  std::string_view luks_name;  // of the LUKS1 header
  size_t key_bytes;
  size_t block_bytes;
};

// In the order of the enumeration.
constexpr std::array<Cipher, 11> kCiphers = {{
    {CipherAlgorithm::aes128, Family::aes, "aes-128", "aes", 16, 16},
    {CipherAlgorithm::aes192, Family::aes, "aes-192", "aes", 24, 16},
    {CipherAlgorithm::aes256, Family::aes, "aes-256", "aes", 32, 16},
    {CipherAlgorithm::serpent128, Family::serpent, "serpent-128", "serpent", 16, 16},
    {CipherAlgorithm::serpent192, Family::serpent, "serpent-192", "serpent", 24, 16},
    {CipherAlgorithm::serpent256, Family::serpent, "serpent-256", "serpent", 32, 16},
    {CipherAlgorithm::twofish128, Family::twofish, "twofish-128", "twofish", 16, 16},
    {CipherAlgorithm::twofish192, Family::twofish, "twofish-192", "twofish", 24, 16},
    {CipherAlgorithm::twofish256, Family::twofish, "twofish-256", "twofish", 32, 16},
    {CipherAlgorithm::cast5_128, Family::cast5, "cast5-128", "cast5", 16, 8},
    {CipherAlgorithm::sm4, Family::sm4, "sm4", "sm4", 16, 16},
}};
constexpr std::array<std::string_view, 4> kModeNames = {"ecb", "cbc", "xts", "ctr"};
constexpr std::array<std::string_view, 4> kIvNames = {"", "plain", "plain64", "essiv"};

const Cipher& cipher_of(CipherAlgorithm algorithm) noexcept {
  return kCiphers[static_cast<size_t>(algorithm)];
}

}  // namespace

size_t cipher_key_bytes(CipherAlgorithm algorithm) noexcept {
  return cipher_of(algorithm).key_bytes;
}
size_t cipher_block_bytes(CipherAlgorithm algorithm) noexcept {
  return cipher_of(algorithm).block_bytes;
}
std::string_view cipher_algorithm_name(CipherAlgorithm algorithm) noexcept {
  return cipher_of(algorithm).name;
}
std::string_view cipher_mode_name(CipherMode mode) noexcept {
  return kModeNames[static_cast<size_t>(mode)];
}
std::string_view iv_generator_name(IvGenerator iv) noexcept {
  return kIvNames[static_cast<size_t>(iv)];
}

std::optional<CipherAlgorithm> cipher_of_same_family(CipherAlgorithm algorithm, size_t key_bytes) noexcept {
  for (const Cipher& cipher : kCiphers)
    if (cipher.family == cipher_of(algorithm).family && cipher.key_bytes == key_bytes)
      return cipher.algorithm;
  return std::nullopt;
}

std::optional<CipherAlgorithm> parse_cipher_algorithm(std::string_view name) noexcept {
  for (const Cipher& cipher : kCiphers)
    if (cipher.name == name) return cipher.algorithm;
  return std::nullopt;
}

std::optional<CipherMode> parse_cipher_mode(std::string_view name) noexcept {
  for (size_t i = 0; i < kModeNames.size(); ++i)
    if (kModeNames[i] == name) return static_cast<CipherMode>(i);
  return std::nullopt;
}

std::optional<IvGenerator> parse_iv_generator(std::string_view name) noexcept {
  for (size_t i = 1; i < kIvNames.size(); ++i)  // "" is not a name
    if (kIvNames[i] == name) return static_cast<IvGenerator>(i);
  return std::nullopt;
}

size_t CipherSpec::key_bytes() const noexcept {
  return cipher_key_bytes(algorithm) * (mode == CipherMode::xts ? 2 : 1);
}

size_t CipherSpec::block_bytes() const noexcept {
  return cipher_block_bytes(algorithm);
}

void CipherSpec::validate() const {
  if (mode == CipherMode::xts && block_bytes() != 16)
    fail(ErrorKind::kInvalidArgument, "cipher {}: XTS needs a block of 16 bytes, {} has {}", to_string(),
         cipher_algorithm_name(algorithm), block_bytes());
  if (mode != CipherMode::ecb && iv == IvGenerator::none)
    fail(ErrorKind::kInvalidArgument,
         "cipher {}: this mode needs an IV generator: plain, plain64 or essiv:DIGEST", to_string());
  if (iv == IvGenerator::essiv) {
    const auto iv_cipher = cipher_of_same_family(algorithm, digest_bytes(essiv_digest));
    if (!iv_cipher)
      fail(ErrorKind::kInvalidArgument, "cipher {}: {} gives {} bytes, which is no key length of {}",
           to_string(), digest_name(essiv_digest), digest_bytes(essiv_digest), luks_cipher_name(*this));
  }
}

std::string CipherSpec::to_string() const {
  return std::string(cipher_algorithm_name(algorithm)) + "-" + luks_cipher_mode(*this);
}

std::string_view luks_cipher_name(const CipherSpec& spec) noexcept {
  return cipher_of(spec.algorithm).luks_name;
}

std::string luks_cipher_mode(const CipherSpec& spec) {
  std::string mode(cipher_mode_name(spec.mode));
  if (spec.iv == IvGenerator::none) return mode;
  mode += "-";
  mode += iv_generator_name(spec.iv);
  if (spec.iv == IvGenerator::essiv) {
    mode += ":";
    mode += digest_name(spec.essiv_digest);
  }
  return mode;
}

namespace {

// "plain64" or "essiv:sha256" into `spec`.
void parse_iv(std::string_view text, CipherSpec& spec) {
  const size_t colon = text.find(':');
  const auto iv = parse_iv_generator(text.substr(0, colon));
  const bool has_digest = colon != std::string_view::npos;
  if (!iv || has_digest != (*iv == IvGenerator::essiv))
    fail(ErrorKind::kUnsupported, "unknown IV generator '{}': known are plain, plain64 and essiv:DIGEST",
         text);
  spec.iv = *iv;
  if (!has_digest) return;
  const auto algorithm = parse_digest(text.substr(colon + 1));
  if (!algorithm) fail(ErrorKind::kUnsupported, "unknown digest in the IV generator '{}'", text);
  spec.essiv_digest = *algorithm;
}

}  // namespace

CipherSpec parse_luks_cipher(std::string_view cipher_name, std::string_view cipher_mode, size_t key_bytes) {
  CipherSpec spec;
  const size_t dash = cipher_mode.find('-');
  const auto mode = parse_cipher_mode(cipher_mode.substr(0, dash));
  if (!mode)
    fail(ErrorKind::kUnsupported, "unknown cipher mode '{}': known are ecb, cbc, xts and ctr", cipher_mode);
  spec.mode = *mode;
  spec.iv = IvGenerator::none;
  if (dash != std::string_view::npos) parse_iv(cipher_mode.substr(dash + 1), spec);

  bool known_name = false;
  for (const Cipher& cipher : kCiphers) {
    if (cipher.luks_name != cipher_name) continue;
    known_name = true;
    spec.algorithm = cipher.algorithm;
    if (spec.key_bytes() != key_bytes) continue;
    spec.validate();
    return spec;
  }
  if (!known_name)
    fail(ErrorKind::kUnsupported, "unknown cipher '{}': known are aes, serpent, twofish, cast5 and sm4",
         cipher_name);
  fail(ErrorKind::kInvalidArgument, "cipher {}-{} takes no key of {} bytes", cipher_name, cipher_mode,
       key_bytes);
}

}  // namespace cofre::crypto

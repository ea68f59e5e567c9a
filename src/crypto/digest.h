// Message digests, under the names that QEMU and the LUKS headers use. Any lane.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>

#include "base/bytes.h"

namespace cofre::crypto {

enum class DigestAlgorithm { md5, sha1, sha224, sha256, sha384, sha512, ripemd160 };

inline constexpr size_t kMaxDigestBytes = 64;

size_t digest_bytes(DigestAlgorithm algorithm) noexcept;
std::string_view digest_name(DigestAlgorithm algorithm) noexcept;
std::optional<DigestAlgorithm> parse_digest(std::string_view name) noexcept;

// A digest of bytes that come in pieces. OpenSSL computes it, or libgcrypt where OpenSSL's providers refuse
// the algorithm. Throws Error kUnsupported when neither has it.
class Digest {
 public:
  explicit Digest(DigestAlgorithm algorithm);
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  ~Digest();

  void update(ConstBytes bytes);
  // Writes the digest of all bytes since the last finish() and starts anew. `out` is exactly digest_bytes()
  // long.
  void finish(Bytes out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The digest of `in`, into exactly digest_bytes(algorithm) bytes.
void digest(DigestAlgorithm algorithm, ConstBytes in, Bytes out);

}  // namespace cofre::crypto

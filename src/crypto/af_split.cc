#include "crypto/af_split.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/error.h"
#include "crypto/random.h"
#include "crypto/secret.h"

namespace cofre::crypto {
namespace {

void check_sizes(size_t key_bytes, uint32_t stripes, size_t material_bytes) {
  const auto expected = checked_mul<uint64_t>(key_bytes, stripes);
  if (key_bytes == 0 || stripes == 0 || !expected || *expected != material_bytes)
    fail(ErrorKind::kInvalidArgument,
         "anti-forensic material of {} bytes does not hold a key of {} bytes in {} stripes", material_bytes,
         key_bytes, stripes);
}

void xor_into(Bytes target, ConstBytes other) {
  for (size_t i = 0; i < target.size(); ++i) target[i] ^= other[i];
}

// H2 of the specification: each piece of the block, as long as a digest (the last may be shorter), is
// replaced by the digest of its number and itself.
class Diffuser {
 public:
  explicit Diffuser(DigestAlgorithm algorithm) : digest_(algorithm), digest_bytes_(digest_bytes(algorithm)) {}
  ~Diffuser() { wipe(piece_digest_); }

  void operator()(Bytes block) {
    const Bytes whole = Bytes(piece_digest_).first(digest_bytes_);
    for (uint32_t piece_number = 0; !block.empty(); ++piece_number) {
      const Bytes piece = block.first(std::min(digest_bytes_, block.size()));
      std::array<std::byte, 4> number;
      store_be<uint32_t>(number.data(), piece_number);
      digest_.update(number);
      digest_.update(piece);
      digest_.finish(whole);
      std::copy_n(whole.begin(), piece.size(), piece.begin());
      block = block.subspan(piece.size());
    }
  }

 private:
  Digest digest_;
  size_t digest_bytes_;
  std::array<std::byte, kMaxDigestBytes> piece_digest_{};
};

// d(k) = H2(d(k-1) xor s(k)) over all stripes but the last.
SecretBytes fold_stripes(DigestAlgorithm algorithm, ConstBytes material, uint32_t stripes, size_t key_bytes) {
  Diffuser diffuse(algorithm);
  SecretBytes block(key_bytes);
  for (uint32_t i = 0; i + 1 < stripes; ++i) {
    xor_into(block.bytes(), material.subspan(i * key_bytes, key_bytes));
    diffuse(block.bytes());
  }
  return block;
}

}  // namespace

void af_split(DigestAlgorithm algorithm, ConstBytes key, uint32_t stripes, Bytes out) {
  check_sizes(key.size(), stripes, out.size());
  const size_t before_last = out.size() - key.size();
  random_bytes(out.first(before_last));
  SecretBytes block = fold_stripes(algorithm, out, stripes, key.size());
  xor_into(block.bytes(), key);
  std::copy_n(block.data(), block.size(), out.begin() + static_cast<ptrdiff_t>(before_last));
}

void af_merge(DigestAlgorithm algorithm, ConstBytes material, uint32_t stripes, Bytes key) {
  check_sizes(key.size(), stripes, material.size());
  SecretBytes block = fold_stripes(algorithm, material, stripes, key.size());
  xor_into(block.bytes(), material.last(key.size()));
  std::copy_n(block.data(), block.size(), key.begin());
}

}  // namespace cofre::crypto

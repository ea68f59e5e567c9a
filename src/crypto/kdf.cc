#include "crypto/kdf.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "base/checked.h"
#include "base/error.h"
#include "crypto/gcrypt.h"
#include "crypto/secret.h"

namespace cofre::crypto {
namespace {

constexpr uint64_t kMostIterations = UINT32_MAX;

struct KdfContextFree {
  void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};

// Null when OpenSSL's providers have no PBKDF2.
EVP_KDF* openssl_pbkdf2() {
  static EVP_KDF* const kdf = EVP_KDF_fetch(nullptr, "PBKDF2", nullptr);
  return kdf;
}

OSSL_PARAM octets(const char* name, ConstBytes bytes) {
  static std::byte nothing{0};
  // OpenSSL refuses a null pointer, even of no bytes, and takes a non-const one, which it only reads.
  auto* from = bytes.empty() ? &nothing : const_cast<std::byte*>(bytes.data());
  return OSSL_PARAM_construct_octet_string(name, from, bytes.size());
}

// False when OpenSSL does not do it: the digest is not among its providers.
bool pbkdf2_openssl(DigestAlgorithm algorithm, ConstBytes passphrase, ConstBytes salt, uint32_t iterations,
                    Bytes out) {
  if (openssl_pbkdf2() == nullptr) return false;
  const std::unique_ptr<EVP_KDF_CTX, KdfContextFree> context(EVP_KDF_CTX_new(openssl_pbkdf2()));
  if (!context) return false;
  std::string name(digest_name(algorithm));
  uint64_t iteration_count = iterations;
  int pkcs5 = 1;  // without the lower bounds of SP 800-132, which old volumes do not meet
  const std::array<OSSL_PARAM, 6> parameters = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, name.data(), 0),
      octets(OSSL_KDF_PARAM_PASSWORD, passphrase),
      octets(OSSL_KDF_PARAM_SALT, salt),
      OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_ITER, &iteration_count),
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_PKCS5, &pkcs5),
      OSSL_PARAM_construct_end(),
  };
  return EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(out.data()), out.size(),
                        parameters.data()) == 1;
}

int gcrypt_digest_id(DigestAlgorithm algorithm) {
  return gcry_md_map_name(std::string(digest_name(algorithm)).c_str());
}

bool pbkdf2_gcrypt(DigestAlgorithm algorithm, ConstBytes passphrase, ConstBytes salt, uint32_t iterations,
                   Bytes out) {
  ensure_gcrypt();
  return gcry_kdf_derive(passphrase.data(), passphrase.size(), GCRY_KDF_PBKDF2, gcrypt_digest_id(algorithm),
                         salt.data(), salt.size(), iterations, out.size(), out.data()) == 0;
}

using Seconds = std::chrono::duration<double>;

// The two clocks of a measurement: elapsed time, and this thread's share of a processor.
struct Clocks {
  std::chrono::steady_clock::time_point monotonic = std::chrono::steady_clock::now();
  double thread_seconds = thread_time();

  static double thread_time() {
    timespec now{};
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return -1;
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }

  // Time that other programs took away does not count, unless the thread clock makes no sense.
  Seconds since() const {
    const Clocks end;
    const double elapsed = Seconds(end.monotonic - monotonic).count();
    const double on_cpu = end.thread_seconds - thread_seconds;
    return Seconds(on_cpu > elapsed / 20 && on_cpu < elapsed ? on_cpu : elapsed);
  }
};

// Salt and passphrase do not matter for the time.
Seconds time_of_one_block(DigestAlgorithm algorithm, uint32_t iterations) {
  constexpr std::array<std::byte, 32> kSalt{};
  SecretBytes block(digest_bytes(algorithm));
  const Clocks start;
  pbkdf2(algorithm, kSalt, kSalt, iterations, block.bytes());
  return start.since();
}

// Iterations of one output block, of the digest's length, in a second. Work grows until it is long enough for
// any clock; the best of three runs counts.
double measure_block_rate(DigestAlgorithm algorithm) {
  constexpr Seconds kLongEnough{0.006};
  uint32_t iterations = 4096;
  Seconds best = time_of_one_block(algorithm, iterations);
  while (best < kLongEnough && iterations < (UINT32_MAX >> 1)) {
    iterations *= 2;
    best = time_of_one_block(algorithm, iterations);
  }
  for (int again = 0; again < 2; ++again) best = std::min(best, time_of_one_block(algorithm, iterations));
  return iterations / std::max(best.count(), 1e-9);
}

// Measured once a process: a new volume asks twice (for its keyslot and for the volume key's digest).
double block_rate(DigestAlgorithm algorithm) {
  static std::array<std::atomic<double>, 16> rates{};
  std::atomic<double>& rate = rates.at(static_cast<size_t>(algorithm));
  if (rate.load(std::memory_order_relaxed) == 0)
    rate.store(measure_block_rate(algorithm), std::memory_order_relaxed);
  return rate.load(std::memory_order_relaxed);
}

}  // namespace

void pbkdf2(DigestAlgorithm algorithm, ConstBytes passphrase, ConstBytes salt, uint32_t iterations,
            Bytes out) {
  if (iterations == 0) fail(ErrorKind::kInvalidArgument, "PBKDF2 needs at least one iteration");
  if (out.empty()) fail(ErrorKind::kInvalidArgument, "PBKDF2 is asked for a key of no bytes");
  if (pbkdf2_openssl(algorithm, passphrase, salt, iterations, out)) return;
  if (pbkdf2_gcrypt(algorithm, passphrase, salt, iterations, out)) return;
  fail(ErrorKind::kUnsupported, "neither OpenSSL nor libgcrypt computes PBKDF2 with {} here",
       digest_name(algorithm));
}

uint64_t pbkdf2_iterations_for(DigestAlgorithm algorithm, size_t key_bytes,
                               std::chrono::milliseconds target) {
  const size_t blocks = std::max<size_t>(div_ceil(key_bytes, digest_bytes(algorithm)), 1);
  const double wanted = Seconds(target).count() * block_rate(algorithm) / static_cast<double>(blocks);
  if (!(wanted > static_cast<double>(kMinPbkdf2Iterations))) return kMinPbkdf2Iterations;
  return wanted >= static_cast<double>(kMostIterations) ? kMostIterations : static_cast<uint64_t>(wanted);
}

}  // namespace cofre::crypto

// How fast AES sectors are encrypted on this machine, on the calling thread: by our kernels, by OpenSSL and
// libgcrypt, and by the processor's AES instructions alone, which is the limit.
//
// Subjects are timed in turns, so that whatever else the machine does for a while hurts all of them or none,
// and the best turn counts. Any lane, but it keeps the lane busy for seconds.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "crypto/aes/kernel.h"
#include "crypto/cipher_spec.h"

namespace cofre::crypto {

enum class Direction { encrypt, decrypt };

// Runs of `run_bytes` (whole sectors), from one buffer into another.
struct SpeedCase {
  CipherSpec spec;  // AES in XTS or CBC
  Direction direction = Direction::encrypt;
  uint32_t sector_bytes = 512;
  size_t run_bytes = 64 * 1024;
};

// Something that does one piece of work again and again.
class SpeedSubject {
 public:
  SpeedSubject() = default;
  virtual ~SpeedSubject() = default;
  SpeedSubject(const SpeedSubject&) = delete;
  SpeedSubject& operator=(const SpeedSubject&) = delete;

  // Does it `times` times and gives the bytes that were encrypted or decrypted.
  virtual size_t work(size_t times) = 0;
};

inline constexpr size_t kMaxSpeedRunBytes = 1024 * 1024;

// Source and destination, kMaxSpeedRunBytes each, of all subjects of one measurement.
class SpeedBuffers;
std::shared_ptr<SpeedBuffers> make_speed_buffers();

// The AES instructions that the kernel uses, for keys of that length. Null for a kernel that uses none.
std::unique_ptr<SpeedSubject> make_limit_subject(const AesKernel& kernel, CipherAlgorithm algorithm);
// The kernel must run on this processor.
std::unique_ptr<SpeedSubject> make_kernel_subject(const AesKernel& kernel, const SpeedCase& what,
                                                  std::shared_ptr<SpeedBuffers> buffers);
// One call a sector, as callers of these libraries do. Null for ESSIV, which neither has. Throw Error
// kUnsupported when the library refuses the cipher.
std::unique_ptr<SpeedSubject> make_openssl_subject(const SpeedCase& what,
                                                   std::shared_ptr<SpeedBuffers> buffers);
std::unique_ptr<SpeedSubject> make_gcrypt_subject(const SpeedCase& what,
                                                  std::shared_ptr<SpeedBuffers> buffers);
// "OpenSSL 3.0.17", "libgcrypt 1.10.1": the libraries in use.
std::string openssl_name();
std::string gcrypt_name();

struct SpeedEffort {
  int turns = 9;                        // of every subject
  std::chrono::microseconds turn{800};  // how long one takes, about
};

// `done` of `total` turns are over.
using SpeedProgress = std::function<void(size_t done, size_t total)>;

// In bytes a second.
struct Speed {
  double best = 0;
  double median = 0;
};

// One Speed a subject, in their order; a null subject has zeros.
std::vector<Speed> measure_speeds(std::span<const std::unique_ptr<SpeedSubject>> subjects,
                                  const SpeedEffort& effort, const SpeedProgress& progress = {});

}  // namespace cofre::crypto

// What is timed of ours: the kernels, and the AES instructions they use.
#include <utility>

#include "crypto/aes/key_expansion.h"
#include "crypto/aes_sector_cipher.h"
#include "crypto/measure/buffers.h"
#include "crypto/measure/limit.h"
#include "crypto/measure/speed.h"
#include "crypto/random.h"
#include "crypto/secret.h"

namespace cofre::crypto {
namespace {

class LimitSubject final : public SpeedSubject {
 public:
  LimitSubject(size_t register_bytes, int rounds) : register_bytes_(register_bytes), rounds_(rounds) {}

  size_t work(size_t times) override {
    constexpr size_t kBytesEach = 64 * 1024;
    return run_aes_instructions(register_bytes_, rounds_, times * kBytesEach);
  }

 private:
  size_t register_bytes_;
  int rounds_;
};

class KernelSubject final : public SpeedSubject {
 public:
  KernelSubject(const AesKernel& kernel, const SpeedCase& what, std::shared_ptr<SpeedBuffers> buffers)
      : what_(what), buffers_(std::move(buffers)) {
    SecretBytes key(what.spec.key_bytes());
    random_bytes(key.bytes());
    cipher_ = make_aes_sector_cipher(kernel, what.spec, key.bytes(), what.sector_bytes, 1);
  }

  size_t work(size_t times) override {
    const ConstBytes source = buffers_->source(what_.run_bytes);
    const Bytes destination = buffers_->destination(what_.run_bytes);
    for (size_t i = 0; i < times; ++i) {
      if (what_.direction == Direction::encrypt)
        cipher_->encrypt(sector_, source, destination);
      else
        cipher_->decrypt(sector_, source, destination);
      sector_ += what_.run_bytes / what_.sector_bytes;
    }
    return times * what_.run_bytes;
  }

 private:
  SpeedCase what_;
  std::shared_ptr<SpeedBuffers> buffers_;
  std::unique_ptr<SectorCipher> cipher_;
  uint64_t sector_ = 0;
};

}  // namespace

SpeedBuffers::SpeedBuffers() {
  random_bytes(source_.bytes());
  random_bytes(destination_.bytes());
}

std::shared_ptr<SpeedBuffers> make_speed_buffers() {
  return std::make_shared<SpeedBuffers>();
}

std::unique_ptr<SpeedSubject> make_limit_subject(const AesKernel& kernel, CipherAlgorithm algorithm) {
  if (kernel.register_bytes == 0) return nullptr;
  return std::make_unique<LimitSubject>(kernel.register_bytes, aes_rounds(cipher_key_bytes(algorithm)));
}

std::unique_ptr<SpeedSubject> make_kernel_subject(const AesKernel& kernel, const SpeedCase& what,
                                                  std::shared_ptr<SpeedBuffers> buffers) {
  return std::make_unique<KernelSubject>(kernel, what, std::move(buffers));
}

}  // namespace cofre::crypto

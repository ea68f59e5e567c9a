#include "crypto/gcrypt_sector_cipher.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "crypto/gcrypt.h"
#include "crypto/secret.h"
#include "crypto/sector_iv.h"

namespace cofre::crypto {
namespace {

constexpr size_t kBatchSectors = 64;
constexpr size_t kMaxIvBytes = 16;

// In the order of CipherAlgorithm. 0: libgcrypt has it not, nettle does.
constexpr std::array<int, 11> kGcryptCiphers = {
    GCRY_CIPHER_AES128,     GCRY_CIPHER_AES192,     GCRY_CIPHER_AES256,     GCRY_CIPHER_SERPENT128,
    GCRY_CIPHER_SERPENT192, GCRY_CIPHER_SERPENT256, GCRY_CIPHER_TWOFISH128, 0,
    GCRY_CIPHER_TWOFISH,    GCRY_CIPHER_CAST5,      GCRY_CIPHER_SM4};

// In the order of CipherMode.
constexpr std::array<int, 4> kGcryptModes = {GCRY_CIPHER_MODE_ECB, GCRY_CIPHER_MODE_CBC, GCRY_CIPHER_MODE_XTS,
                                             GCRY_CIPHER_MODE_CTR};

void check(gcry_error_t error, const char* what, CipherAlgorithm algorithm) {
  if (error != 0)
    fail(ErrorKind::kUnsupported, "libgcrypt fails to {} with {}: {}", what, cipher_algorithm_name(algorithm),
         gcry_strerror(error));
}

struct CloseHandle {
  void operator()(gcry_cipher_hd_t handle) const { gcry_cipher_close(handle); }
};
using Handle = std::unique_ptr<gcry_cipher_handle, CloseHandle>;

Handle open_handle(CipherAlgorithm algorithm, CipherMode mode, ConstBytes key) {
  ensure_gcrypt();
  gcry_cipher_hd_t raw = nullptr;
  check(gcry_cipher_open(&raw, kGcryptCiphers[static_cast<size_t>(algorithm)],
                         kGcryptModes[static_cast<size_t>(mode)], 0),
        "open", algorithm);
  Handle handle(raw);
  check(gcry_cipher_setkey(raw, key.data(), key.size()), "set the key", algorithm);
  return handle;
}

// What one thread needs for a run: libgcrypt's handles carry state and serve one thread at a time.
struct Worker {
  Handle cipher;
  Handle essiv;  // null without ESSIV
};

class GcryptSectorCipher final : public SectorCipher {
 public:
  GcryptSectorCipher(const CipherSpec& spec, ConstBytes key, uint32_t sector_bytes,
                     uint32_t iv_units_per_sector)
      : SectorCipher(spec, sector_bytes, iv_units_per_sector),
        implementation_(spec.to_string() + " libgcrypt"),
        key_(SecretBytes::copy_of(key)) {
    if (has_essiv()) {
      essiv_key_ = SecretBytes(digest_bytes(spec.essiv_digest));
      digest(spec.essiv_digest, key, essiv_key_.bytes());
    }
    idle_.push_back(new_worker());
  }

  std::string_view implementation() const override { return implementation_; }

 private:
  enum class Direction { encrypt, decrypt };

  void encrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    run(Direction::encrypt, first_sector, source, destination, sectors);
  }
  void decrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    run(Direction::decrypt, first_sector, source, destination, sectors);
  }

  bool has_essiv() const { return spec().mode != CipherMode::ecb && spec().iv == IvGenerator::essiv; }

  Worker new_worker() const {
    Worker worker;
    worker.cipher = open_handle(spec().algorithm, spec().mode, key_.bytes());
    if (has_essiv())
      worker.essiv = open_handle(cipher_of_same_family(spec().algorithm, essiv_key_.size()).value(),
                                 CipherMode::ecb, essiv_key_.bytes());
    return worker;
  }

  // One lock a run, not one a sector.
  Worker take_worker() const {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        Worker worker = std::move(idle_.back());
        idle_.pop_back();
        return worker;
      }
    }
    return new_worker();
  }

  void give_back(Worker worker) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(worker));
  }

  void run(Direction direction, uint64_t first_sector, const std::byte* source, std::byte* destination,
           size_t sectors) const {
    Worker worker = take_worker();
    if (spec().mode == CipherMode::ecb)
      crypt(worker, direction, source, destination, sectors * sector_bytes());
    else
      run_with_ivs(worker, direction, first_sector, source, destination, sectors);
    give_back(std::move(worker));
  }

  void run_with_ivs(Worker& worker, Direction direction, uint64_t first_sector, const std::byte* source,
                    std::byte* destination, size_t sectors) const {
    const size_t iv_bytes = spec().block_bytes();
    std::array<std::byte, kBatchSectors * kMaxIvBytes> ivs;
    while (sectors > 0) {
      const size_t batch = std::min(sectors, kBatchSectors);
      fill_sector_ivs(spec().iv, first_sector, iv_units_per_sector(), batch, iv_bytes, ivs.data());
      if (worker.essiv)
        check(gcry_cipher_encrypt(worker.essiv.get(), ivs.data(), batch * iv_bytes, nullptr, 0),
              "encrypt IVs", spec().algorithm);
      for (size_t i = 0; i < batch; ++i) {
        set_iv(worker, ivs.data() + i * iv_bytes, iv_bytes);
        crypt(worker, direction, source, destination, sector_bytes());
        source += sector_bytes();
        destination += sector_bytes();
      }
      first_sector += batch * iv_units_per_sector();
      sectors -= batch;
    }
  }

  void set_iv(Worker& worker, const std::byte* iv, size_t iv_bytes) const {
    const gcry_error_t error = spec().mode == CipherMode::ctr
                                   ? gcry_cipher_setctr(worker.cipher.get(), iv, iv_bytes)
                                   : gcry_cipher_setiv(worker.cipher.get(), iv, iv_bytes);
    check(error, "set the IV", spec().algorithm);
  }

  void crypt(Worker& worker, Direction direction, const std::byte* source, std::byte* destination,
             size_t bytes) const {
    const auto function = direction == Direction::encrypt ? gcry_cipher_encrypt : gcry_cipher_decrypt;
    check(function(worker.cipher.get(), destination, bytes, source, bytes),
          direction == Direction::encrypt ? "encrypt" : "decrypt", spec().algorithm);
  }

  std::string implementation_;
  SecretBytes key_;
  SecretBytes essiv_key_;
  mutable std::mutex mutex_;
  mutable std::vector<Worker> idle_;  // guarded by mutex_; never more than threads that ran at once
};

}  // namespace

std::unique_ptr<SectorCipher> make_gcrypt_sector_cipher(const CipherSpec& spec, ConstBytes key,
                                                        uint32_t sector_bytes, uint32_t iv_units_per_sector) {
  return std::make_unique<GcryptSectorCipher>(spec, key, sector_bytes, iv_units_per_sector);
}

}  // namespace cofre::crypto

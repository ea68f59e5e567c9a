// How fast each AES kernel is over a 64 KiB run of 512-byte sectors on one core, beside what the processor
// could do at best (its AES instructions alone, on registers) and what OpenSSL and libgcrypt do, one call a
// sector.
//
//   crypto_bench --benchmark_filter='xts.*256'
#include <benchmark/benchmark.h>
#include <gcrypt.h>
#include <openssl/evp.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "crypto/aes/select.h"
#include "crypto/aes_sector_cipher.h"
#include "crypto/kdf.h"
#include "crypto/random.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cofre::crypto {
namespace {

constexpr size_t kRunBytes = 64 * 1024;
constexpr size_t kSector = 512;
constexpr size_t kRounds256 = 14;

struct Buffers {
  std::vector<std::byte> source = std::vector<std::byte>(kRunBytes);
  std::vector<std::byte> destination = std::vector<std::byte>(kRunBytes);
  Buffers() { random_bytes(source); }
};

void count_bytes(benchmark::State& state, size_t bytes_each) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes_each));
}

void run_kernel(benchmark::State& state, const AesKernel& kernel, const CipherSpec& spec, bool encrypt,
                size_t run_bytes, uint32_t sector_bytes) {
  std::vector<std::byte> key(spec.key_bytes());
  random_bytes(key);
  const auto cipher = make_aes_sector_cipher(kernel, spec, key, sector_bytes, 1);
  Buffers buffers;
  const ConstBytes source = ConstBytes(buffers.source).first(run_bytes);
  const Bytes destination = Bytes(buffers.destination).first(run_bytes);
  uint64_t sector = 0;
  for (auto _ : state) {
    if (encrypt)
      cipher->encrypt(sector, source, destination);
    else
      cipher->decrypt(sector, source, destination);
    benchmark::ClobberMemory();
    sector += run_bytes / sector_bytes;
  }
  count_bytes(state, run_bytes);
}

void run_openssl(benchmark::State& state, const EVP_CIPHER* cipher, bool encrypt) {
  std::vector<std::byte> key(64);
  random_bytes(key);
  Buffers buffers;
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  EVP_CipherInit_ex(context, cipher, nullptr, reinterpret_cast<const unsigned char*>(key.data()), nullptr,
                    encrypt);
  EVP_CIPHER_CTX_set_padding(context, 0);
  for (auto _ : state) {
    for (size_t at = 0; at < kRunBytes; at += kSector) {
      unsigned char iv[16] = {};
      store_le<uint64_t>(iv, at / kSector);
      int length = 0;
      EVP_CipherInit_ex(context, nullptr, nullptr, nullptr, iv, -1);
      EVP_CipherUpdate(context, reinterpret_cast<unsigned char*>(buffers.destination.data() + at), &length,
                       reinterpret_cast<const unsigned char*>(buffers.source.data() + at), kSector);
    }
    benchmark::ClobberMemory();
  }
  EVP_CIPHER_CTX_free(context);
  count_bytes(state, kRunBytes);
}

void run_gcrypt(benchmark::State& state, int algorithm, int mode, bool encrypt) {
  gcry_check_version(nullptr);
  std::vector<std::byte> key(mode == GCRY_CIPHER_MODE_XTS ? 64 : 32);
  random_bytes(key);
  Buffers buffers;
  gcry_cipher_hd_t handle;
  if (gcry_cipher_open(&handle, algorithm, mode, 0) != 0 ||
      gcry_cipher_setkey(handle, key.data(), key.size()) != 0)
    throw std::runtime_error("libgcrypt refuses the cipher");
  const auto function = encrypt ? gcry_cipher_encrypt : gcry_cipher_decrypt;
  for (auto _ : state) {
    for (size_t at = 0; at < kRunBytes; at += kSector) {
      unsigned char iv[16] = {};
      store_le<uint64_t>(iv, at / kSector);
      gcry_cipher_setiv(handle, iv, sizeof iv);
      function(handle, buffers.destination.data() + at, kSector, buffers.source.data() + at, kSector);
    }
    benchmark::ClobberMemory();
  }
  gcry_cipher_close(handle);
  count_bytes(state, kRunBytes);
}

void run_cipher(benchmark::State& state, const CipherSpec& spec, bool encrypt) {
  std::vector<std::byte> key(spec.key_bytes());
  random_bytes(key);
  const auto cipher = SectorCipher::create(spec, key);
  Buffers buffers;
  for (auto _ : state) {
    if (encrypt)
      cipher->encrypt(0, buffers.source, buffers.destination);
    else
      cipher->decrypt(0, buffers.source, buffers.destination);
    benchmark::ClobberMemory();
  }
  count_bytes(state, kRunBytes);
}

void run_pbkdf2(benchmark::State& state, DigestAlgorithm algorithm) {
  constexpr uint32_t kIterations = 10000;
  std::vector<std::byte> key(digest_bytes(algorithm));
  for (auto _ : state) pbkdf2(algorithm, key, key, kIterations, key);
  state.SetItemsProcessed(state.iterations() * kIterations);
}

#if defined(__x86_64__)
// Fourteen rounds on eight registers of 64 bytes, and nothing else.
__attribute__((target("avx512f,vaes"))) void run_limit_512(benchmark::State& state) {
  __m512i block[8];
  for (int i = 0; i < 8; ++i) block[i] = _mm512_set1_epi64(i);
  __m512i key = _mm512_set1_epi64(0x1234567);
  for (auto _ : state) {
    for (size_t at = 0; at < kRunBytes; at += 512) {
      for (size_t round = 0; round < kRounds256; ++round)
        for (__m512i& x : block) x = _mm512_aesenc_epi128(x, key);
      __asm__ volatile("" : "+v"(key));
    }
  }
  for (__m512i& x : block) benchmark::DoNotOptimize(x);
  count_bytes(state, kRunBytes);
}

__attribute__((target("avx2,vaes"))) void run_limit_256(benchmark::State& state) {
  __m256i block[8];
  for (int i = 0; i < 8; ++i) block[i] = _mm256_set1_epi64x(i);
  __m256i key = _mm256_set1_epi64x(0x1234567);
  for (auto _ : state) {
    for (size_t at = 0; at < kRunBytes; at += 256) {
      for (size_t round = 0; round < kRounds256; ++round)
        for (__m256i& x : block) x = _mm256_aesenc_epi128(x, key);
      __asm__ volatile("" : "+x"(key));
    }
  }
  for (__m256i& x : block) benchmark::DoNotOptimize(x);
  count_bytes(state, kRunBytes);
}
#endif

void register_limits() {
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.vaes && cpu.avx512f) benchmark::RegisterBenchmark("limit/aes-256/vaes512", run_limit_512);
  if (cpu.vaes && cpu.avx2) benchmark::RegisterBenchmark("limit/aes-256/vaes256", run_limit_256);
#endif
}

std::string direction(bool encrypt) {
  return encrypt ? "encrypt" : "decrypt";
}

void register_kernels() {
  for (const auto algorithm : {CipherAlgorithm::aes256, CipherAlgorithm::aes128})
    for (const auto mode : {CipherMode::xts, CipherMode::cbc})
      for (const auto iv : {IvGenerator::plain64, IvGenerator::essiv})
        for (const bool encrypt : {true, false})
          for (const AesKernel* kernel : aes_kernels()) {
            if (!has_all(cpu_features(), kernel->needs)) continue;
            if (mode == CipherMode::xts && iv == IvGenerator::essiv) continue;
            const CipherSpec spec{algorithm, mode, iv, DigestAlgorithm::sha256};
            const auto name = spec.to_string() + "/" + direction(encrypt) + "/" + std::string(kernel->name);
            for (const size_t bytes : {kRunBytes, size_t{4096}, size_t{512}})
              benchmark::RegisterBenchmark(
                  (name + "/" + std::to_string(bytes)).c_str(),
                  [=](benchmark::State& s) { run_kernel(s, *kernel, spec, encrypt, bytes, kSector); });
            benchmark::RegisterBenchmark((name + "/65536/sector4096").c_str(), [=](benchmark::State& s) {
              run_kernel(s, *kernel, spec, encrypt, kRunBytes, 4096);
            });
          }
}

void register_peers() {
  for (const bool encrypt : {true, false}) {
    const auto openssl = [&](const std::string& name, const EVP_CIPHER* cipher) {
      benchmark::RegisterBenchmark((name + "/" + direction(encrypt) + "/openssl").c_str(),
                                   [=](benchmark::State& s) { run_openssl(s, cipher, encrypt); });
    };
    openssl("aes-256-xts-plain64", EVP_aes_256_xts());
    openssl("aes-256-cbc-plain64", EVP_aes_256_cbc());
    const auto gcrypt = [&](const std::string& name, int mode) {
      benchmark::RegisterBenchmark(
          (name + "/" + direction(encrypt) + "/libgcrypt").c_str(),
          [=](benchmark::State& s) { run_gcrypt(s, GCRY_CIPHER_AES256, mode, encrypt); });
    };
    gcrypt("aes-256-xts-plain64", GCRY_CIPHER_MODE_XTS);
    gcrypt("aes-256-cbc-plain64", GCRY_CIPHER_MODE_CBC);
    for (const auto algorithm :
         {CipherAlgorithm::serpent256, CipherAlgorithm::twofish256, CipherAlgorithm::sm4}) {
      const CipherSpec spec{algorithm, CipherMode::xts, IvGenerator::plain64, DigestAlgorithm::sha256};
      benchmark::RegisterBenchmark((spec.to_string() + "/" + direction(encrypt)).c_str(),
                                   [=](benchmark::State& s) { run_cipher(s, spec, encrypt); });
    }
  }
}

void register_all() {
  register_limits();
  register_kernels();
  register_peers();
  for (const auto algorithm : {DigestAlgorithm::sha1, DigestAlgorithm::sha256, DigestAlgorithm::sha512})
    benchmark::RegisterBenchmark(("pbkdf2-iterations/" + std::string(digest_name(algorithm))).c_str(),
                                 [=](benchmark::State& s) { run_pbkdf2(s, algorithm); });
}

}  // namespace
}  // namespace cofre::crypto

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  cofre::crypto::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

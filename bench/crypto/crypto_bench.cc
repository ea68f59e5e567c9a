// The ciphers that the AES kernels do not compute, over a 64 KiB run of 512-byte sectors on one core, and
// PBKDF2. AES is in aes_bench and `cofre bench crypto`.
//
//   crypto_bench --benchmark_filter=serpent
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "base/bytes.h"
#include "crypto/kdf.h"
#include "crypto/random.h"
#include "crypto/sector_cipher.h"

namespace cofre::crypto {
namespace {

constexpr size_t kRunBytes = 64 * 1024;

void run_cipher(benchmark::State& state, const CipherSpec& spec, bool encrypt) {
  std::vector<std::byte> key(spec.key_bytes());
  std::vector<std::byte> source(kRunBytes), destination(kRunBytes);
  random_bytes(key);
  random_bytes(source);
  const auto cipher = SectorCipher::create(spec, key);
  for (auto _ : state) {
    if (encrypt)
      cipher->encrypt(0, source, destination);
    else
      cipher->decrypt(0, source, destination);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kRunBytes));
}

void run_pbkdf2(benchmark::State& state, DigestAlgorithm algorithm) {
  constexpr uint32_t kIterations = 10000;
  std::vector<std::byte> key(digest_bytes(algorithm));
  for (auto _ : state) pbkdf2(algorithm, key, key, kIterations, key);
  state.SetItemsProcessed(state.iterations() * kIterations);
}

void register_all() {
  for (const bool encrypt : {true, false})
    for (const auto algorithm :
         {CipherAlgorithm::serpent256, CipherAlgorithm::twofish256, CipherAlgorithm::sm4}) {
      const CipherSpec spec{algorithm, CipherMode::xts, IvGenerator::plain64, DigestAlgorithm::sha256};
      benchmark::RegisterBenchmark((spec.to_string() + (encrypt ? "/encrypt" : "/decrypt")).c_str(),
                                   [=](benchmark::State& s) { run_cipher(s, spec, encrypt); });
    }
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

#include "crypto/measure/limit.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cofre::crypto {
namespace {

// More than any processor's AES units have in flight (latency times units: 8 to 12), as many as 16 registers
// hold beside the key.
constexpr size_t kInFlight = 12;

#if defined(__x86_64__)

__attribute__((target("aes,sse4.1"))) void steps_128(int rounds, size_t steps) {
  __m128i block[kInFlight];
  const __m128i key = _mm_set1_epi64x(0x1234567);
  for (size_t i = 0; i < kInFlight; ++i) block[i] = _mm_set1_epi64x(static_cast<long long>(i));
  for (size_t step = 0; step < steps; ++step)
    for (int round = 0; round < rounds; ++round)
      for (__m128i& x : block) x = _mm_aesenc_si128(x, key);
  for (__m128i& x : block) __asm__ volatile("" : "+x"(x));
}

__attribute__((target("avx2,vaes"))) void steps_256(int rounds, size_t steps) {
  __m256i block[kInFlight];
  const __m256i key = _mm256_set1_epi64x(0x1234567);
  for (size_t i = 0; i < kInFlight; ++i) block[i] = _mm256_set1_epi64x(static_cast<long long>(i));
  for (size_t step = 0; step < steps; ++step)
    for (int round = 0; round < rounds; ++round)
      for (__m256i& x : block) x = _mm256_aesenc_epi128(x, key);
  for (__m256i& x : block) __asm__ volatile("" : "+x"(x));
}

__attribute__((target("avx512f,vaes"))) void steps_512(int rounds, size_t steps) {
  __m512i block[kInFlight];
  const __m512i key = _mm512_set1_epi64(0x1234567);
  for (size_t i = 0; i < kInFlight; ++i) block[i] = _mm512_set1_epi64(static_cast<long long>(i));
  for (size_t step = 0; step < steps; ++step)
    for (int round = 0; round < rounds; ++round)
      for (__m512i& x : block) x = _mm512_aesenc_epi128(x, key);
  for (__m512i& x : block) __asm__ volatile("" : "+v"(x));
}

bool run_steps(size_t register_bytes, int rounds, size_t steps) {
  switch (register_bytes) {
    case 16:
      steps_128(rounds, steps);
      return true;
    case 32:
      steps_256(rounds, steps);
      return true;
    case 64:
      steps_512(rounds, steps);
      return true;
    default:
      return false;
  }
}

#else

bool run_steps(size_t, int, size_t) {
  return false;
}

#endif

}  // namespace

size_t run_aes_instructions(size_t register_bytes, int rounds, size_t bytes) {
  if (register_bytes == 0) return 0;
  const size_t step_bytes = kInFlight * register_bytes;
  const size_t steps = (bytes + step_bytes - 1) / step_bytes;
  return run_steps(register_bytes, rounds, steps) ? steps * step_bytes : 0;
}

}  // namespace cofre::crypto

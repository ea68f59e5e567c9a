#include "crypto/aes/x86_schedule.h"

#include <immintrin.h>

#include <cstring>

namespace cofre::crypto {
namespace {

#define COFRE_TARGET __attribute__((target("aes,sse4.1")))

// With four equal columns ShiftRows changes nothing, so the last round under a zero key is SubBytes alone.
COFRE_TARGET uint32_t sub_word(uint32_t word) {
  const __m128i columns = _mm_set1_epi32(static_cast<int>(word));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_aesenclast_si128(columns, _mm_setzero_si128())));
}

COFRE_TARGET void invert_round_keys(X86AesSchedule& schedule) {
  const int rounds = schedule.rounds;
  std::memcpy(schedule.decrypt[0], schedule.encrypt[rounds], 16);
  std::memcpy(schedule.decrypt[rounds], schedule.encrypt[0], 16);
  for (int i = 1; i < rounds; ++i) {
    __m128i key;
    std::memcpy(&key, schedule.encrypt[rounds - i], 16);
    key = _mm_aesimc_si128(key);
    std::memcpy(schedule.decrypt[i], &key, 16);
  }
}

}  // namespace

void expand_x86_key(const uint8_t* key, size_t key_bytes, void* schedule) {
  auto& expanded = *static_cast<X86AesSchedule*>(schedule);
  expanded.rounds = aes_rounds(key_bytes);
  expand_aes_key(key, key_bytes, sub_word, expanded.encrypt);
  invert_round_keys(expanded);
}

}  // namespace cofre::crypto

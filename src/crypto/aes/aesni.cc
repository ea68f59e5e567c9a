// AES with the AES-NI instructions, one block each, eight in flight to hide their latency.
//
// CBC encryption is serial inside a sector: eight sectors run side by side.
#include <immintrin.h>

#include "crypto/aes/kernel.h"
#include "crypto/aes/x86_schedule.h"

namespace cofre::crypto {
namespace {

#define COFRE_TARGET __attribute__((target("aes,sse4.1")))
#define COFRE_INLINE static inline __attribute__((always_inline, target("aes,sse4.1")))

constexpr size_t kLanes = 8;
constexpr size_t kLaneBytes = kLanes * kAesBlockBytes;

using RoundKeys = const uint8_t (*)[16];

thread_local uint64_t sectors_done_here = 0;

const X86AesSchedule& schedule_at(const void* schedule) {
  return *static_cast<const X86AesSchedule*>(schedule);
}

COFRE_INLINE __m128i load(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
}
COFRE_INLINE void store(uint8_t* to, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), value);
}

// Encrypts `count` states whose first round key is added already.
COFRE_INLINE void encrypt_states(__m128i* state, size_t count, RoundKeys keys, int rounds) {
  for (int round = 1; round < rounds; ++round) {
    const __m128i key = load(keys[round]);
    for (size_t i = 0; i < count; ++i) state[i] = _mm_aesenc_si128(state[i], key);
  }
  const __m128i last = load(keys[rounds]);
  for (size_t i = 0; i < count; ++i) state[i] = _mm_aesenclast_si128(state[i], last);
}

COFRE_INLINE void decrypt_states(__m128i* state, size_t count, RoundKeys keys, int rounds) {
  for (int round = 1; round < rounds; ++round) {
    const __m128i key = load(keys[round]);
    for (size_t i = 0; i < count; ++i) state[i] = _mm_aesdec_si128(state[i], key);
  }
  const __m128i last = load(keys[rounds]);
  for (size_t i = 0; i < count; ++i) state[i] = _mm_aesdeclast_si128(state[i], last);
}

COFRE_INLINE void encrypt_some(RoundKeys keys, int rounds, const uint8_t* source, uint8_t* destination,
                               size_t count) {
  __m128i state[kLanes];
  const __m128i first = load(keys[0]);
  for (size_t i = 0; i < count; ++i) state[i] = _mm_xor_si128(load(source + 16 * i), first);
  encrypt_states(state, count, keys, rounds);
  for (size_t i = 0; i < count; ++i) store(destination + 16 * i, state[i]);
}

COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const X86AesSchedule& keys = schedule_at(schedule);
  for (; blocks >= kLanes; blocks -= kLanes, source += kLaneBytes, destination += kLaneBytes)
    encrypt_some(keys.encrypt, keys.rounds, source, destination, kLanes);
  for (; blocks > 0; --blocks, source += 16, destination += 16)
    encrypt_some(keys.encrypt, keys.rounds, source, destination, 1);
}

// Times x, modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
COFRE_INLINE __m128i double_tweak(__m128i tweak) {
  const __m128i carries = _mm_shuffle_epi32(_mm_srai_epi32(tweak, 31), _MM_SHUFFLE(0, 1, 0, 3));
  return _mm_xor_si128(_mm_add_epi64(tweak, tweak), _mm_and_si128(carries, _mm_set_epi32(0, 1, 0, 0x87)));
}

COFRE_INLINE void xts_run(RoundKeys keys, int rounds, bool encrypt, const AesRun& run) {
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    __m128i next = load(run.ivs + 16 * sector);
    for (size_t at = 0; at < run.sector_bytes;
         at += kLaneBytes, source += kLaneBytes, destination += kLaneBytes) {
      __m128i tweak[kLanes];
      __m128i state[kLanes];
      const __m128i first = load(keys[0]);
      for (size_t i = 0; i < kLanes; ++i) {
        tweak[i] = next;
        next = double_tweak(next);
        state[i] = _mm_xor_si128(_mm_xor_si128(load(source + 16 * i), first), tweak[i]);
      }
      if (encrypt)
        encrypt_states(state, kLanes, keys, rounds);
      else
        decrypt_states(state, kLanes, keys, rounds);
      for (size_t i = 0; i < kLanes; ++i) store(destination + 16 * i, _mm_xor_si128(state[i], tweak[i]));
    }
  }
  sectors_done_here += run.sectors;
}

COFRE_TARGET void xts_encrypt(const void* schedule, const AesRun& run) {
  xts_run(schedule_at(schedule).encrypt, schedule_at(schedule).rounds, true, run);
}

COFRE_TARGET void xts_decrypt(const void* schedule, const AesRun& run) {
  xts_run(schedule_at(schedule).decrypt, schedule_at(schedule).rounds, false, run);
}

// `bytes` of `count` sectors, side by side, `stride` apart; `state` holds the ciphertext before.
COFRE_INLINE void cbc_encrypt_part(RoundKeys keys, int rounds, size_t count, __m128i* state,
                                   const uint8_t* source, uint8_t* destination, size_t stride, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kAesBlockBytes) {
    const __m128i key = load(keys[0]);
    for (size_t i = 0; i < count; ++i)
      state[i] = _mm_xor_si128(state[i], _mm_xor_si128(load(source + i * stride + at), key));
    encrypt_states(state, count, keys, rounds);
    for (size_t i = 0; i < count; ++i) store(destination + i * stride + at, state[i]);
  }
}

COFRE_INLINE void copy_lines(const uint8_t* source, size_t source_stride, uint8_t* destination,
                             size_t destination_stride, size_t lines) {
  for (size_t i = 0; i < lines; ++i, source += source_stride, destination += destination_stride)
    for (size_t at = 0; at < 64; at += 16) store(destination + at, load(source + at));
}

// Larger sectors go by way of a small window, a cache line of each at a time: a power of two apart, their
// lines fall into few sets of the cache and would push each other out between two blocks.
COFRE_INLINE void cbc_encrypt_beside(RoundKeys keys, int rounds, const AesRun& run, size_t first,
                                     size_t count) {
  constexpr size_t kLine = 64;
  const size_t stride = run.sector_bytes;
  const uint8_t* source = run.source + first * stride;
  uint8_t* destination = run.destination + first * stride;
  __m128i state[kLanes];
  for (size_t i = 0; i < count; ++i) state[i] = load(run.ivs + 16 * (first + i));
  if (stride == 512 || count == 1)
    return cbc_encrypt_part(keys, rounds, count, state, source, destination, stride, stride);
  alignas(64) uint8_t window[kLanes * kLine];
  for (size_t at = 0; at < stride; at += kLine) {
    copy_lines(source + at, stride, window, kLine, count);
    cbc_encrypt_part(keys, rounds, count, state, window, window, kLine, kLine);
    copy_lines(window, kLine, destination + at, stride, count);
  }
}

COFRE_TARGET void cbc_encrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  size_t first = 0;
  for (; run.sectors - first >= kLanes; first += kLanes)
    cbc_encrypt_beside(keys.encrypt, keys.rounds, run, first, kLanes);
  if (run.sectors - first >= kLanes / 2) {
    cbc_encrypt_beside(keys.encrypt, keys.rounds, run, first, kLanes / 2);
    first += kLanes / 2;
  }
  for (; first < run.sectors; ++first) cbc_encrypt_beside(keys.encrypt, keys.rounds, run, first, 1);
  sectors_done_here += run.sectors;
}

COFRE_TARGET void cbc_decrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    __m128i before = load(run.ivs + 16 * sector);
    for (size_t at = 0; at < run.sector_bytes;
         at += kLaneBytes, source += kLaneBytes, destination += kLaneBytes) {
      __m128i state[kLanes];
      const __m128i key = load(keys.decrypt[0]);
      for (size_t i = 0; i < kLanes; ++i) state[i] = _mm_xor_si128(load(source + 16 * i), key);
      decrypt_states(state, kLanes, keys.decrypt, keys.rounds);
      // In place, a block of ciphertext must be read before the plain text overwrites it.
      for (size_t i = 0; i < kLanes; ++i) {
        const __m128i cipher_text = load(source + 16 * i);
        store(destination + 16 * i, _mm_xor_si128(state[i], before));
        before = cipher_text;
      }
    }
  }
  sectors_done_here += run.sectors;
}

uint64_t sectors_done() {
  return sectors_done_here;
}

}  // namespace

const AesKernel kAesNi = {
    .name = "aesni",
    .description = "AES-NI, 8 blocks in flight",
    .needs = {.sse41 = true, .aes = true},
    .register_bytes = 16,
    .schedule_bytes = sizeof(X86AesSchedule),
    .expand_key = expand_x86_key,
    .encrypt_blocks = encrypt_blocks,
    .xts_encrypt = xts_encrypt,
    .xts_decrypt = xts_decrypt,
    .cbc_encrypt = cbc_encrypt,
    .cbc_decrypt = cbc_decrypt,
    .sectors_done = sectors_done,
};

}  // namespace cofre::crypto

// AES with the instructions of the Armv8 cryptographic extension, one block each, eight in flight to hide
// their latency.
//
// AESE adds the round key before SubBytes and ShiftRows, so the last round key is added by itself. CBC
// encryption is serial inside a sector: eight sectors run side by side.
#include <arm_neon.h>

#include <cstring>

#include "crypto/aes/kernel.h"
#include "crypto/aes/key_expansion.h"

namespace cofre::crypto {
namespace {

#define COFRE_TARGET __attribute__((target("aes")))
#define COFRE_INLINE static inline __attribute__((always_inline, target("aes")))

constexpr size_t kLanes = 8;
constexpr size_t kLaneBytes = kLanes * kAesBlockBytes;

// Round keys in the order of use. Those for decryption fit the equivalent inverse cipher (FIPS 197 section
// 5.3.5).
struct alignas(64) Armv8Schedule {
  uint8_t encrypt[kMaxAesRounds + 1][16];
  uint8_t decrypt[kMaxAesRounds + 1][16];
  int rounds;
};
static_assert(sizeof(Armv8Schedule) <= kMaxAesScheduleBytes);

using RoundKeys = const uint8_t (*)[16];

thread_local uint64_t sectors_done_here = 0;

const Armv8Schedule& schedule_at(const void* schedule) {
  return *static_cast<const Armv8Schedule*>(schedule);
}

// With four equal columns ShiftRows changes nothing, so AESE under a zero key is SubBytes alone.
COFRE_TARGET uint32_t sub_word(uint32_t word) {
  const uint8x16_t columns = vreinterpretq_u8_u32(vdupq_n_u32(word));
  return vgetq_lane_u32(vreinterpretq_u32_u8(vaeseq_u8(columns, vdupq_n_u8(0))), 0);
}

COFRE_TARGET void expand_key(const uint8_t* key, size_t key_bytes, void* schedule) {
  auto& expanded = *static_cast<Armv8Schedule*>(schedule);
  const int rounds = aes_rounds(key_bytes);
  expanded.rounds = rounds;
  expand_aes_key(key, key_bytes, sub_word, expanded.encrypt);
  std::memcpy(expanded.decrypt[0], expanded.encrypt[rounds], 16);
  std::memcpy(expanded.decrypt[rounds], expanded.encrypt[0], 16);
  for (int i = 1; i < rounds; ++i)
    vst1q_u8(expanded.decrypt[i], vaesimcq_u8(vld1q_u8(expanded.encrypt[rounds - i])));
}

// Instructions that follow each other as AESE and AESMC are executed as one by many processors.
COFRE_INLINE void encrypt_states(uint8x16_t* state, size_t count, RoundKeys keys, int rounds) {
  for (int round = 0; round < rounds - 1; ++round) {
    const uint8x16_t key = vld1q_u8(keys[round]);
    for (size_t i = 0; i < count; ++i) state[i] = vaesmcq_u8(vaeseq_u8(state[i], key));
  }
  const uint8x16_t key = vld1q_u8(keys[rounds - 1]);
  const uint8x16_t last = vld1q_u8(keys[rounds]);
  for (size_t i = 0; i < count; ++i) state[i] = veorq_u8(vaeseq_u8(state[i], key), last);
}

COFRE_INLINE void decrypt_states(uint8x16_t* state, size_t count, RoundKeys keys, int rounds) {
  for (int round = 0; round < rounds - 1; ++round) {
    const uint8x16_t key = vld1q_u8(keys[round]);
    for (size_t i = 0; i < count; ++i) state[i] = vaesimcq_u8(vaesdq_u8(state[i], key));
  }
  const uint8x16_t key = vld1q_u8(keys[rounds - 1]);
  const uint8x16_t last = vld1q_u8(keys[rounds]);
  for (size_t i = 0; i < count; ++i) state[i] = veorq_u8(vaesdq_u8(state[i], key), last);
}

COFRE_INLINE void encrypt_some(const Armv8Schedule& keys, const uint8_t* source, uint8_t* destination,
                               size_t count) {
  uint8x16_t state[kLanes];
  for (size_t i = 0; i < count; ++i) state[i] = vld1q_u8(source + 16 * i);
  encrypt_states(state, count, keys.encrypt, keys.rounds);
  for (size_t i = 0; i < count; ++i) vst1q_u8(destination + 16 * i, state[i]);
}

COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const Armv8Schedule& keys = schedule_at(schedule);
  for (; blocks >= kLanes; blocks -= kLanes, source += kLaneBytes, destination += kLaneBytes)
    encrypt_some(keys, source, destination, kLanes);
  for (; blocks > 0; --blocks, source += 16, destination += 16) encrypt_some(keys, source, destination, 1);
}

// Times x, modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
COFRE_INLINE uint8x16_t double_tweak(uint8x16_t tweak) {
  const int64x2_t halves = vreinterpretq_s64_u8(tweak);
  const int64x2_t carries = vshrq_n_s64(halves, 63);
  const uint64x2_t places = vcombine_u64(vcreate_u64(0x87), vcreate_u64(1));
  const uint64x2_t back_in = vandq_u64(vreinterpretq_u64_s64(vextq_s64(carries, carries, 1)), places);
  return vreinterpretq_u8_u64(veorq_u64(vreinterpretq_u64_s64(vshlq_n_s64(halves, 1)), back_in));
}

COFRE_INLINE void xts_run(RoundKeys keys, int rounds, bool encrypt, const AesRun& run) {
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    uint8x16_t next = vld1q_u8(run.ivs + 16 * sector);
    for (size_t at = 0; at < run.sector_bytes;
         at += kLaneBytes, source += kLaneBytes, destination += kLaneBytes) {
      uint8x16_t tweak[kLanes];
      uint8x16_t state[kLanes];
      for (size_t i = 0; i < kLanes; ++i) {
        tweak[i] = next;
        next = double_tweak(next);
        state[i] = veorq_u8(vld1q_u8(source + 16 * i), tweak[i]);
      }
      if (encrypt)
        encrypt_states(state, kLanes, keys, rounds);
      else
        decrypt_states(state, kLanes, keys, rounds);
      for (size_t i = 0; i < kLanes; ++i) vst1q_u8(destination + 16 * i, veorq_u8(state[i], tweak[i]));
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

// Sectors first .. first + count - 1, side by side.
COFRE_INLINE void cbc_encrypt_beside(const Armv8Schedule& keys, const AesRun& run, size_t first,
                                     size_t count) {
  const size_t stride = run.sector_bytes;
  const uint8_t* source = run.source + first * stride;
  uint8_t* destination = run.destination + first * stride;
  uint8x16_t state[kLanes];
  for (size_t i = 0; i < count; ++i) state[i] = vld1q_u8(run.ivs + 16 * (first + i));
  for (size_t at = 0; at < stride; at += kAesBlockBytes) {
    for (size_t i = 0; i < count; ++i) state[i] = veorq_u8(state[i], vld1q_u8(source + i * stride + at));
    encrypt_states(state, count, keys.encrypt, keys.rounds);
    for (size_t i = 0; i < count; ++i) vst1q_u8(destination + i * stride + at, state[i]);
  }
}

COFRE_TARGET void cbc_encrypt(const void* schedule, const AesRun& run) {
  const Armv8Schedule& keys = schedule_at(schedule);
  size_t first = 0;
  for (; run.sectors - first >= kLanes; first += kLanes) cbc_encrypt_beside(keys, run, first, kLanes);
  if (run.sectors - first >= kLanes / 2) {
    cbc_encrypt_beside(keys, run, first, kLanes / 2);
    first += kLanes / 2;
  }
  for (; first < run.sectors; ++first) cbc_encrypt_beside(keys, run, first, 1);
  sectors_done_here += run.sectors;
}

COFRE_TARGET void cbc_decrypt(const void* schedule, const AesRun& run) {
  const Armv8Schedule& keys = schedule_at(schedule);
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    uint8x16_t before = vld1q_u8(run.ivs + 16 * sector);
    for (size_t at = 0; at < run.sector_bytes;
         at += kLaneBytes, source += kLaneBytes, destination += kLaneBytes) {
      uint8x16_t state[kLanes];
      for (size_t i = 0; i < kLanes; ++i) state[i] = vld1q_u8(source + 16 * i);
      decrypt_states(state, kLanes, keys.decrypt, keys.rounds);
      // In place, a block of ciphertext must be read before the plain text overwrites it.
      for (size_t i = 0; i < kLanes; ++i) {
        const uint8x16_t cipher_text = vld1q_u8(source + 16 * i);
        vst1q_u8(destination + 16 * i, veorq_u8(state[i], before));
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

const AesKernel kAesArmv8 = {
    .name = "armv8",
    .description = "AES instructions of Armv8, 8 blocks in flight",
    .needs = {.aes = true},
    .register_bytes = 16,
    .schedule_bytes = sizeof(Armv8Schedule),
    .expand_key = expand_key,
    .encrypt_blocks = encrypt_blocks,
    .xts_encrypt = xts_encrypt,
    .xts_decrypt = xts_decrypt,
    .cbc_encrypt = cbc_encrypt,
    .cbc_decrypt = cbc_decrypt,
    .sectors_done = sectors_done,
};

}  // namespace cofre::crypto

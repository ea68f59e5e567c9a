// AES with VAES on 512-bit registers: four blocks an instruction, eight registers (32 blocks) in flight.
//
// With 32 registers the round keys stay in registers, so every loop is compiled once for each number of
// rounds. XTS: eight registers are one 512-byte data unit. CBC encryption: up to 32 sectors side by side,
// four a register.
#include <immintrin.h>

#include "crypto/aes/kernel.h"
#include "crypto/aes/x86_schedule.h"

namespace cofre::crypto {
namespace {

#define COFRE_FEATURES "aes,pclmul,avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq"
#define COFRE_TARGET __attribute__((target(COFRE_FEATURES)))
#define COFRE_INLINE static inline __attribute__((always_inline, target(COFRE_FEATURES)))

constexpr int kLanes = 4;      // blocks a register
constexpr int kRegisters = 8;  // registers in flight
constexpr size_t kRegisterBytes = kLanes * kAesBlockBytes;
constexpr size_t kChunkBytes = kRegisters * kRegisterBytes;
constexpr int kBeside = kLanes * kRegisters;  // sectors side by side in CBC encryption

using RoundKeys = const uint8_t (*)[16];

thread_local uint64_t sectors_done_here = 0;

const X86AesSchedule& schedule_at(const void* schedule) {
  return *static_cast<const X86AesSchedule*>(schedule);
}

COFRE_INLINE __m512i load(const uint8_t* from) {
  return _mm512_loadu_si512(from);
}
COFRE_INLINE void store(uint8_t* to, __m512i value) {
  _mm512_storeu_si512(to, value);
}
COFRE_INLINE __m128i load_block(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
}
COFRE_INLINE __m512i four_times(const uint8_t* block) {
  return _mm512_broadcast_i32x4(load_block(block));
}
COFRE_INLINE __m512i xor_three(__m512i a, __m512i b, __m512i c) {
  return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

COFRE_INLINE void load_keys(__m512i* keys, RoundKeys from, int rounds) {
  for (int i = 0; i <= rounds; ++i) keys[i] = four_times(from[i]);
}

// The rounds between the first key, added already, and the last one.
COFRE_INLINE void encrypt_middle(__m512i* state, int count, const __m512i* keys, int rounds) {
  for (int round = 1; round < rounds; ++round)
    for (int i = 0; i < count; ++i) state[i] = _mm512_aesenc_epi128(state[i], keys[round]);
}

COFRE_INLINE void decrypt_middle(__m512i* state, int count, const __m512i* keys, int rounds) {
  for (int round = 1; round < rounds; ++round)
    for (int i = 0; i < count; ++i) state[i] = _mm512_aesdec_epi128(state[i], keys[round]);
}

// The lanes of register `i` that hold blocks, when there are `blocks` in all.
COFRE_INLINE __mmask8 lanes_in_use(int i, size_t blocks) {
  const size_t before = static_cast<size_t>(i) * kLanes;
  const size_t lanes = blocks <= before ? 0 : blocks - before;
  return lanes >= kLanes ? __mmask8{0xff} : static_cast<__mmask8>((1u << (2 * lanes)) - 1);
}

// Up to 4 * count blocks; lanes without a block touch no memory.
COFRE_INLINE void encrypt_some(const __m512i* keys, int rounds, int count, const uint8_t* source,
                               uint8_t* destination, size_t blocks) {
  __m512i state[kRegisters];
  for (int i = 0; i < count; ++i) {
    const __m512i text = _mm512_maskz_loadu_epi64(lanes_in_use(i, blocks), source + kRegisterBytes * i);
    state[i] = _mm512_xor_si512(text, keys[0]);
  }
  encrypt_middle(state, count, keys, rounds);
  for (int i = 0; i < count; ++i) {
    const __m512i text = _mm512_aesenclast_epi128(state[i], keys[rounds]);
    _mm512_mask_storeu_epi64(destination + kRegisterBytes * i, lanes_in_use(i, blocks), text);
  }
}

COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const int rounds = schedule_at(schedule).rounds;
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, schedule_at(schedule).encrypt, rounds);
  for (; blocks > kBeside; blocks -= kBeside, source += kChunkBytes, destination += kChunkBytes)
    encrypt_some(keys, rounds, kRegisters, source, destination, kBeside);
  if (blocks > kLanes)
    encrypt_some(keys, rounds, kRegisters, source, destination, blocks);
  else
    encrypt_some(keys, rounds, 1, source, destination, blocks);
}

// x^128 = x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
COFRE_INLINE __m512i reduction() {
  return _mm512_set1_epi64(0x87);
}

// From t in every lane: t * x^(first + lane).
COFRE_INLINE __m512i spread_tweak(__m512i tweak, int first) {
  const __m512i left = _mm512_add_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), _mm512_set1_epi64(first));
  const __m512i carry = _mm512_srlv_epi64(tweak, _mm512_sub_epi64(_mm512_set1_epi64(64), left));
  return xor_three(_mm512_sllv_epi64(tweak, left), _mm512_clmulepi64_epi128(carry, reduction(), 0x01),
                   _mm512_bslli_epi128(carry, 8));
}

// The tweaks times x^8 and times x^16: whole bytes move up, those that fall out come back reduced.
COFRE_INLINE __m512i tweak_times_x8(__m512i tweak) {
  const __m512i out = _mm512_bsrli_epi128(tweak, 15);
  return _mm512_xor_si512(_mm512_bslli_epi128(tweak, 1), _mm512_clmulepi64_epi128(out, reduction(), 0x00));
}
COFRE_INLINE __m512i tweak_times_x16(__m512i tweak) {
  const __m512i out = _mm512_bsrli_epi128(tweak, 14);
  return _mm512_xor_si512(_mm512_bslli_epi128(tweak, 2), _mm512_clmulepi64_epi128(out, reduction(), 0x00));
}

// The tweaks of a sector's first 32 blocks.
COFRE_INLINE void first_tweaks(__m512i* tweak, const uint8_t* iv) {
  const __m512i start = four_times(iv);
  tweak[0] = spread_tweak(start, 0);
  tweak[1] = spread_tweak(start, 4);
  tweak[2] = tweak_times_x8(tweak[0]);
  tweak[3] = tweak_times_x8(tweak[1]);
  for (int i = 4; i < kRegisters; ++i) tweak[i] = tweak_times_x16(tweak[i - 4]);
}

// Those of the 32 blocks after.
COFRE_INLINE void next_tweaks(__m512i* tweak) {
  for (int i = 0; i < kRegisters; ++i) tweak[i] = tweak_times_x16(tweak_times_x16(tweak[i]));
}

COFRE_INLINE void xts_chunk(const __m512i* keys, int rounds, bool encrypt, const __m512i* tweak,
                            const uint8_t* source, uint8_t* destination) {
  __m512i state[kRegisters];
  for (int i = 0; i < kRegisters; ++i)
    state[i] = xor_three(load(source + kRegisterBytes * i), tweak[i], keys[0]);
  if (encrypt)
    encrypt_middle(state, kRegisters, keys, rounds);
  else
    decrypt_middle(state, kRegisters, keys, rounds);
  for (int i = 0; i < kRegisters; ++i) {
    const __m512i last = _mm512_xor_si512(keys[rounds], tweak[i]);
    store(destination + kRegisterBytes * i,
          encrypt ? _mm512_aesenclast_epi128(state[i], last) : _mm512_aesdeclast_epi128(state[i], last));
  }
}

COFRE_INLINE void xts_run(RoundKeys round_keys, int rounds, bool encrypt, const AesRun& run) {
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, round_keys, rounds);
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    __m512i tweak[kRegisters];
    first_tweaks(tweak, run.ivs + 16 * sector);
    for (size_t left = run.sector_bytes;;) {
      xts_chunk(keys, rounds, encrypt, tweak, source, destination);
      source += kChunkBytes;
      destination += kChunkBytes;
      left -= kChunkBytes;
      if (left == 0) break;
      next_tweaks(tweak);
    }
  }
  sectors_done_here += run.sectors;
}

// Sectors first .. first + used - 1, on `count` registers, so used is at most 4 * count. The lanes left over
// work on the last sector again and their result goes nowhere.
COFRE_INLINE void cbc_encrypt_beside(const __m512i* keys, int rounds, int count, const AesRun& run,
                                     size_t first, size_t used) {
  const uint8_t* source[kBeside];
  uint8_t* destination[kBeside];
  alignas(64) uint8_t nowhere[kAesBlockBytes];
  __m512i state[kRegisters];
  for (int lane = 0; lane < kLanes * count; ++lane) {
    const bool spare = static_cast<size_t>(lane) >= used;
    const size_t sector = spare ? first + used - 1 : first + static_cast<size_t>(lane);
    source[lane] = run.source + sector * run.sector_bytes;
    destination[lane] = spare ? nullptr : run.destination + sector * run.sector_bytes;
  }
  for (int i = 0; i < count; ++i) state[i] = _mm512_setzero_si512();
  for (size_t lane = 0; lane < used; lane += kLanes) {
    const uint8_t* ivs = run.ivs + 16 * (first + lane);
    state[lane / kLanes] = _mm512_maskz_loadu_epi64(lanes_in_use(0, used - lane), ivs);
  }
  for (size_t at = 0; at < run.sector_bytes; at += kAesBlockBytes) {
    for (int i = 0; i < count; ++i) {
      const uint8_t* const* from = source + kLanes * i;
      __m512i text = _mm512_castsi128_si512(load_block(from[0] + at));
      text = _mm512_inserti32x4(text, load_block(from[1] + at), 1);
      text = _mm512_inserti32x4(text, load_block(from[2] + at), 2);
      text = _mm512_inserti32x4(text, load_block(from[3] + at), 3);
      state[i] = xor_three(state[i], text, keys[0]);
    }
    encrypt_middle(state, count, keys, rounds);
    for (int i = 0; i < count; ++i) {
      state[i] = _mm512_aesenclast_epi128(state[i], keys[rounds]);
      for (int lane = 0; lane < kLanes; ++lane) {
        uint8_t* to = destination[kLanes * i + lane];
        to = to == nullptr ? nowhere : to + at;
        const __m128i block = lane == 0   ? _mm512_castsi512_si128(state[i])
                              : lane == 1 ? _mm512_extracti32x4_epi32(state[i], 1)
                              : lane == 2 ? _mm512_extracti32x4_epi32(state[i], 2)
                                          : _mm512_extracti32x4_epi32(state[i], 3);
        _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), block);
      }
    }
  }
}

COFRE_INLINE void cbc_encrypt_run(RoundKeys round_keys, int rounds, const AesRun& run) {
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, round_keys, rounds);
  for (size_t first = 0; first < run.sectors;) {
    const size_t left = run.sectors - first;
    const size_t used = left < kBeside ? left : kBeside;
    if (used > 4 * kLanes)
      cbc_encrypt_beside(keys, rounds, 8, run, first, used);
    else if (used > kLanes)
      cbc_encrypt_beside(keys, rounds, 4, run, first, used);
    else
      cbc_encrypt_beside(keys, rounds, 1, run, first, used);
    first += used;
  }
  sectors_done_here += run.sectors;
}

COFRE_INLINE void cbc_decrypt_run(RoundKeys round_keys, int rounds, const AesRun& run) {
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, round_keys, rounds);
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    __m512i before = four_times(run.ivs + 16 * sector);  // its last lane: the ciphertext before this chunk
    for (size_t at = 0; at < run.sector_bytes;
         at += kChunkBytes, source += kChunkBytes, destination += kChunkBytes) {
      __m512i state[kRegisters];
      for (int i = 0; i < kRegisters; ++i)
        state[i] = _mm512_xor_si512(load(source + kRegisterBytes * i), keys[0]);
      decrypt_middle(state, kRegisters, keys, rounds);
      // The last key and the ciphertext before are added together. All is read before anything is written: in
      // place they are the same bytes.
      const __m512i head = load(source);
      const __m512i tail = load(source + kChunkBytes - kRegisterBytes);
      state[0] = _mm512_aesdeclast_epi128(
          state[0], _mm512_xor_si512(keys[rounds], _mm512_alignr_epi64(head, before, 6)));
      for (int i = 1; i < kRegisters; ++i)
        state[i] = _mm512_aesdeclast_epi128(
            state[i], _mm512_xor_si512(keys[rounds], load(source + kRegisterBytes * i - kAesBlockBytes)));
      before = tail;
      for (int i = 0; i < kRegisters; ++i) store(destination + kRegisterBytes * i, state[i]);
    }
  }
  sectors_done_here += run.sectors;
}

COFRE_TARGET void xts_encrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  switch (keys.rounds) {
    case 10:
      return xts_run(keys.encrypt, 10, true, run);
    case 12:
      return xts_run(keys.encrypt, 12, true, run);
    default:
      return xts_run(keys.encrypt, 14, true, run);
  }
}

COFRE_TARGET void xts_decrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  switch (keys.rounds) {
    case 10:
      return xts_run(keys.decrypt, 10, false, run);
    case 12:
      return xts_run(keys.decrypt, 12, false, run);
    default:
      return xts_run(keys.decrypt, 14, false, run);
  }
}

COFRE_TARGET void cbc_encrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  switch (keys.rounds) {
    case 10:
      return cbc_encrypt_run(keys.encrypt, 10, run);
    case 12:
      return cbc_encrypt_run(keys.encrypt, 12, run);
    default:
      return cbc_encrypt_run(keys.encrypt, 14, run);
  }
}

COFRE_TARGET void cbc_decrypt(const void* schedule, const AesRun& run) {
  const X86AesSchedule& keys = schedule_at(schedule);
  switch (keys.rounds) {
    case 10:
      return cbc_decrypt_run(keys.decrypt, 10, run);
    case 12:
      return cbc_decrypt_run(keys.decrypt, 12, run);
    default:
      return cbc_decrypt_run(keys.decrypt, 14, run);
  }
}

uint64_t sectors_done() {
  return sectors_done_here;
}

}  // namespace

const AesKernel kAesVaes512 = {
    .name = "vaes512",
    .description = "VAES on 512-bit registers, 32 blocks in flight",
    .needs = {.pclmulqdq = true,
              .aes = true,
              .avx512f = true,
              .avx512bw = true,
              .avx512dq = true,
              .avx512vl = true,
              .vaes = true,
              .vpclmulqdq = true},
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

// AES with VAES on 256-bit registers: two blocks an instruction, eight registers (16 blocks) in flight, for
// processors without AVX-512. There are 16 registers only, so round keys come from memory.
//
// CBC encryption: up to 16 sectors side by side, two a register.
#include <immintrin.h>

#include "crypto/aes/kernel.h"
#include "crypto/aes/x86_schedule.h"

// Builds that do not optimize leave the loop that asks for it rolled up, which is right for them.
#pragma clang diagnostic ignored "-Wpass-failed"

namespace cofre::crypto {
namespace {

#define COFRE_FEATURES "aes,pclmul,avx2,vaes,vpclmulqdq"
#define COFRE_TARGET __attribute__((target(COFRE_FEATURES)))
#define COFRE_INLINE static inline __attribute__((always_inline, target(COFRE_FEATURES)))

constexpr int kLanes = 2;      // blocks a register
constexpr int kRegisters = 8;  // registers in flight
constexpr size_t kRegisterBytes = kLanes * kAesBlockBytes;
constexpr size_t kChunkBytes = kRegisters * kRegisterBytes;
constexpr int kBeside = kLanes * kRegisters;  // sectors side by side in CBC encryption

using RoundKeys = const uint8_t (*)[16];

thread_local uint64_t sectors_done_here = 0;

const X86AesSchedule& schedule_at(const void* schedule) {
  return *static_cast<const X86AesSchedule*>(schedule);
}

COFRE_INLINE __m256i load(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from));
}
COFRE_INLINE void store(uint8_t* to, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), value);
}
COFRE_INLINE __m128i load_block(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
}
COFRE_INLINE void store_block(uint8_t* to, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), value);
}
COFRE_INLINE __m256i twice(const uint8_t* block) {
  return _mm256_broadcastsi128_si256(load_block(block));
}
COFRE_INLINE __m256i two_blocks(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load_block(low)), load_block(high), 1);
}

// The rounds between the first key, added already, and the last one.
COFRE_INLINE void encrypt_middle(__m256i* state, int count, RoundKeys keys, int rounds) {
  for (int round = 1; round < rounds; ++round) {
    const __m256i key = twice(keys[round]);
    for (int i = 0; i < count; ++i) state[i] = _mm256_aesenc_epi128(state[i], key);
  }
}

COFRE_INLINE void decrypt_middle(__m256i* state, int count, RoundKeys keys, int rounds) {
  for (int round = 1; round < rounds; ++round) {
    const __m256i key = twice(keys[round]);
    for (int i = 0; i < count; ++i) state[i] = _mm256_aesdec_epi128(state[i], key);
  }
}

COFRE_INLINE void encrypt_sixteen(RoundKeys keys, int rounds, const uint8_t* source, uint8_t* destination) {
  __m256i state[kRegisters];
  const __m256i first = twice(keys[0]);
  const __m256i last = twice(keys[rounds]);
  for (int i = 0; i < kRegisters; ++i) state[i] = _mm256_xor_si256(load(source + kRegisterBytes * i), first);
  encrypt_middle(state, kRegisters, keys, rounds);
  for (int i = 0; i < kRegisters; ++i)
    store(destination + kRegisterBytes * i, _mm256_aesenclast_epi128(state[i], last));
}

COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const X86AesSchedule& keys = schedule_at(schedule);
  for (; blocks >= kBeside; blocks -= kBeside, source += kChunkBytes, destination += kChunkBytes)
    encrypt_sixteen(keys.encrypt, keys.rounds, source, destination);
  if (blocks == 0) return;
  uint8_t rest[kChunkBytes] = {};
  __builtin_memcpy(rest, source, blocks * kAesBlockBytes);
  encrypt_sixteen(keys.encrypt, keys.rounds, rest, rest);
  __builtin_memcpy(destination, rest, blocks * kAesBlockBytes);
}

// x^128 = x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
COFRE_INLINE __m256i reduction() {
  return _mm256_set1_epi64x(0x87);
}

// One block's tweak times x^32: four bytes move up, those that fall out come back reduced.
COFRE_INLINE __m128i tweak_times_x32(__m128i tweak) {
  const __m128i out = _mm_bsrli_si128(tweak, 12);
  return _mm_xor_si128(_mm_bslli_si128(tweak, 4), _mm_clmulepi64_si128(out, _mm_set1_epi64x(0x87), 0x00));
}

COFRE_INLINE __m256i lanes_of_words(int h3, int h2, int h1, int h0, int l3, int l2, int l1, int l0) {
  return _mm256_set_epi32(h3, h2, h1, h0, l3, l2, l1, l0);
}

// The tweaks times x^8: a byte moves up, the one that falls out comes back reduced.
COFRE_INLINE __m256i tweak_times_x8(__m256i tweak) {
  const __m256i out = _mm256_bsrli_epi128(tweak, 15);
  return _mm256_xor_si256(_mm256_bslli_epi128(tweak, 1), _mm256_clmulepi64_epi128(out, reduction(), 0x00));
}

// t and t * x^16.
COFRE_INLINE __m256i tweak_and_times_x16(__m128i tweak) {
  const __m256i both = _mm256_broadcastsi128_si256(tweak);
  const __m256i moved =
      _mm256_shuffle_epi8(both, lanes_of_words(0x0d0c0b0a, 0x09080706, 0x05040302, 0x0100ffff,  //
                                               0x0f0e0d0c, 0x0b0a0908, 0x07060504, 0x03020100));
  const __m256i out =
      _mm256_shuffle_epi8(both, lanes_of_words(-1, -1, -1, static_cast<int>(0xffff0f0e), -1, -1, -1, -1));
  return _mm256_xor_si256(moved, _mm256_clmulepi64_epi128(out, reduction(), 0x00));
}

// The tweaks times x. Bits that leave a half come back in the other one, those of the upper half reduced.
// Cheap instructions: the multiplication of polynomials occupies the units that compute AES.
COFRE_INLINE __m256i double_tweaks(__m256i tweak) {
  const __m256i carries = _mm256_shuffle_epi32(_mm256_srai_epi32(tweak, 31), _MM_SHUFFLE(0, 1, 0, 3));
  const __m256i places = lanes_of_words(0, 1, 0, 0x87, 0, 1, 0, 0x87);
  return _mm256_xor_si256(_mm256_add_epi64(tweak, tweak), _mm256_and_si256(carries, places));
}

constexpr int kUnitRegisters = 2 * kRegisters;
constexpr size_t kUnitBytes = 2 * kChunkBytes;

// The tweaks of a unit of 512 bytes, each plus the last round key, as they are made: two chains, one of the
// blocks 0 to 15 and one of 16 to 31. In memory: there are too few registers.
struct UnitTweaks {
  __m256i last[kUnitRegisters];
};

// Step `step` of 16. Before it `chain` has the tweaks of the blocks `step` and `step` + 16, `before` those of
// the step before.
COFRE_INLINE void make_tweaks(UnitTweaks& unit, int step, __m256i& chain, __m256i& before, __m256i last_key) {
  if (step % 2 == 1) {
    const __m256i low = _mm256_inserti128_si256(before, _mm256_castsi256_si128(chain), 1);
    const __m256i high = _mm256_permute2x128_si256(before, chain, 0x31);
    unit.last[step / 2] = _mm256_xor_si256(low, last_key);
    unit.last[kRegisters + step / 2] = _mm256_xor_si256(high, last_key);
  }
  before = chain;
  chain = double_tweaks(chain);
}

// All steps of the first unit, which has no unit before it to hide in: in two halves side by side.
COFRE_INLINE void make_first_tweaks(UnitTweaks& unit, __m256i chain, __m256i last_key) {
  __m256i later_chain = tweak_times_x8(chain);
  __m256i before = chain;
  __m256i later_before = later_chain;
#pragma unroll
  for (int step = 0; step < kRegisters; ++step) {
    make_tweaks(unit, step, chain, before, last_key);
    make_tweaks(unit, kRegisters + step, later_chain, later_before, last_key);
  }
}

// Left alone, the compiler gathers work that stands between rounds in one place, where the rounds would wait
// for it.
COFRE_INLINE void hold_here(__m256i* state) {
  __asm__ volatile(""
                   : "+x"(state[0]), "+x"(state[1]), "+x"(state[2]), "+x"(state[3]), "+x"(state[4]),
                     "+x"(state[5]), "+x"(state[6]), "+x"(state[7])
                   :
                   : "memory");
}

// Half a unit, from register `first` on; between its rounds, in their shadow, the tweaks of the same half of
// the next unit, which starts with `next_start`, are made.
COFRE_INLINE void xts_chunk(RoundKeys keys, int rounds, bool encrypt, const UnitTweaks& unit, int first,
                            UnitTweaks& next, __m256i& chain, const uint8_t* source, uint8_t* destination) {
  __m256i state[kRegisters];
  __m256i before = chain;
  // The tweak and the first key: the last key is in `last` and goes out again.
  const __m256i first_and_last = _mm256_xor_si256(twice(keys[0]), twice(keys[rounds]));
  for (int i = 0; i < kRegisters; ++i)
    state[i] = _mm256_xor_si256(_mm256_xor_si256(load(source + kRegisterBytes * i), first_and_last),
                                unit.last[first + i]);
#pragma unroll
  for (int round = 1; round < rounds; ++round) {
    const __m256i key = twice(keys[round]);
    for (int i = 0; i < kRegisters; ++i)
      state[i] = encrypt ? _mm256_aesenc_epi128(state[i], key) : _mm256_aesdec_epi128(state[i], key);
    if (round <= kRegisters) make_tweaks(next, first + round - 1, chain, before, twice(keys[rounds]));
    hold_here(state);
  }
  for (int i = 0; i < kRegisters; ++i)
    store(destination + kRegisterBytes * i, encrypt
                                                ? _mm256_aesenclast_epi128(state[i], unit.last[first + i])
                                                : _mm256_aesdeclast_epi128(state[i], unit.last[first + i]));
}

COFRE_INLINE void xts_run(RoundKeys keys, int rounds, bool encrypt, const AesRun& run) {
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  const uint8_t* iv = run.ivs;
  const uint8_t* const last_iv = run.ivs + 16 * (run.sectors - 1);
  __m128i start = load_block(iv);
  UnitTweaks tweaks[2];
  __asm__ volatile("" : : "r"(tweaks) : "memory");  // hold_here() then means them too
  __m256i chain = tweak_and_times_x16(start);
  make_first_tweaks(tweaks[0], chain, twice(keys[rounds]));
  size_t left = run.sector_bytes;
  const size_t units = run.sectors * (run.sector_bytes / kUnitBytes);
  for (size_t i = 0; i < units; ++i) {
    left -= kUnitBytes;
    if (left == 0) {
      iv = iv < last_iv ? iv + 16 : last_iv;
      start = load_block(iv);
      left = run.sector_bytes;
    } else {
      start = tweak_times_x32(start);
    }
    const UnitTweaks& unit = tweaks[i % 2];
    UnitTweaks& next = tweaks[(i + 1) % 2];
    chain = tweak_and_times_x16(start);
    xts_chunk(keys, rounds, encrypt, unit, 0, next, chain, source, destination);
    xts_chunk(keys, rounds, encrypt, unit, kRegisters, next, chain, source + kChunkBytes,
              destination + kChunkBytes);
    source += kUnitBytes;
    destination += kUnitBytes;
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

// `bytes` of 2 * count sectors, side by side, `stride` apart; `state` holds the ciphertext before.
COFRE_INLINE void cbc_encrypt_part(RoundKeys keys, int rounds, int count, __m256i* state,
                                   const uint8_t* source, uint8_t* destination, size_t stride, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kAesBlockBytes) {
    const __m256i key = twice(keys[0]);
    for (int i = 0; i < count; ++i) {
      const uint8_t* from = source + 2 * i * stride + at;
      state[i] = _mm256_xor_si256(state[i], _mm256_xor_si256(two_blocks(from, from + stride), key));
    }
    encrypt_middle(state, count, keys, rounds);
    const __m256i last = twice(keys[rounds]);
    for (int i = 0; i < count; ++i) {
      uint8_t* to = destination + 2 * i * stride + at;
      state[i] = _mm256_aesenclast_epi128(state[i], last);
      store_block(to, _mm256_castsi256_si128(state[i]));
      store_block(to + stride, _mm256_extracti128_si256(state[i], 1));
    }
  }
}

COFRE_INLINE void copy_lines(const uint8_t* source, size_t source_stride, uint8_t* destination,
                             size_t destination_stride, int lines) {
  for (int i = 0; i < lines; ++i, source += source_stride, destination += destination_stride) {
    store(destination, load(source));
    store(destination + kRegisterBytes, load(source + kRegisterBytes));
  }
}

// Sectors first .. first + 2 * count - 1. Larger sectors go by way of a small window, a cache line of each at
// a time: a power of two apart, their lines fall into few sets of the cache and would push each other out
// between two blocks.
COFRE_INLINE void cbc_encrypt_beside(RoundKeys keys, int rounds, int count, const AesRun& run, size_t first) {
  constexpr size_t kLine = 64;
  const size_t stride = run.sector_bytes;
  const uint8_t* source = run.source + first * stride;
  uint8_t* destination = run.destination + first * stride;
  __m256i state[kRegisters];
  for (int i = 0; i < count; ++i) state[i] = load(run.ivs + 16 * first + kRegisterBytes * i);
  if (stride == 512) return cbc_encrypt_part(keys, rounds, count, state, source, destination, 512, 512);
  alignas(64) uint8_t window[kBeside * kLine];
  for (size_t at = 0; at < stride; at += kLine) {
    copy_lines(source + at, stride, window, kLine, kLanes * count);
    cbc_encrypt_part(keys, rounds, count, state, window, window, kLine, kLine);
    copy_lines(window, kLine, destination + at, stride, kLanes * count);
  }
}

COFRE_INLINE void cbc_encrypt_one(RoundKeys keys, int rounds, const AesRun& run, size_t sector) {
  const uint8_t* source = run.source + sector * run.sector_bytes;
  uint8_t* destination = run.destination + sector * run.sector_bytes;
  __m128i state = load_block(run.ivs + 16 * sector);
  for (size_t at = 0; at < run.sector_bytes; at += kAesBlockBytes) {
    state = _mm_xor_si128(state, _mm_xor_si128(load_block(source + at), load_block(keys[0])));
    for (int round = 1; round < rounds; ++round) state = _mm_aesenc_si128(state, load_block(keys[round]));
    state = _mm_aesenclast_si128(state, load_block(keys[rounds]));
    store_block(destination + at, state);
  }
}

COFRE_TARGET void cbc_encrypt(const void* schedule, const AesRun& run) {
  const RoundKeys keys = schedule_at(schedule).encrypt;
  const int rounds = schedule_at(schedule).rounds;
  size_t first = 0;
  for (; run.sectors - first >= kBeside; first += kBeside)
    cbc_encrypt_beside(keys, rounds, kRegisters, run, first);
  for (; run.sectors - first >= 8; first += 8) cbc_encrypt_beside(keys, rounds, 4, run, first);
  for (; run.sectors - first >= 2; first += 2) cbc_encrypt_beside(keys, rounds, 1, run, first);
  if (first < run.sectors) cbc_encrypt_one(keys, rounds, run, first);
  sectors_done_here += run.sectors;
}

COFRE_TARGET void cbc_decrypt(const void* schedule, const AesRun& run) {
  const RoundKeys keys = schedule_at(schedule).decrypt;
  const int rounds = schedule_at(schedule).rounds;
  const uint8_t* source = run.source;
  uint8_t* destination = run.destination;
  for (size_t sector = 0; sector < run.sectors; ++sector) {
    __m128i before = load_block(run.ivs + 16 * sector);
    for (size_t at = 0; at < run.sector_bytes;
         at += kChunkBytes, source += kChunkBytes, destination += kChunkBytes) {
      __m256i state[kRegisters];
      const __m256i first = twice(keys[0]);
      for (int i = 0; i < kRegisters; ++i)
        state[i] = _mm256_xor_si256(load(source + kRegisterBytes * i), first);
      decrypt_middle(state, kRegisters, keys, rounds);
      // The last key and the ciphertext before are added together. All is read before anything is written: in
      // place they are the same bytes.
      const __m256i last = twice(keys[rounds]);
      const __m256i head = _mm256_inserti128_si256(_mm256_castsi128_si256(before), load_block(source), 1);
      before = load_block(source + kChunkBytes - kAesBlockBytes);
      state[0] = _mm256_aesdeclast_epi128(state[0], _mm256_xor_si256(last, head));
      for (int i = 1; i < kRegisters; ++i)
        state[i] = _mm256_aesdeclast_epi128(
            state[i], _mm256_xor_si256(last, load(source + kRegisterBytes * i - kAesBlockBytes)));
      for (int i = 0; i < kRegisters; ++i) store(destination + kRegisterBytes * i, state[i]);
    }
  }
  sectors_done_here += run.sectors;
}

uint64_t sectors_done() {
  return sectors_done_here;
}

}  // namespace

const AesKernel kAesVaes256 = {
    .name = "vaes256",
    .description = "VAES on 256-bit registers, 16 blocks in flight",
    .needs = {.pclmulqdq = true, .aes = true, .avx2 = true, .vaes = true, .vpclmulqdq = true},
    .register_bytes = 32,
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

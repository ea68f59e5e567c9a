// AES with VAES on 256-bit registers: two blocks an instruction, eight registers (16 blocks) in flight, for
// processors without AVX-512. There are 16 registers only, so round keys come from memory.
//
// XTS: the vector and the integer units share the making of tweaks, a kilobyte ahead, beside the rounds.
// CBC encryption: up to 16 sectors side by side, two a register.
#include <immintrin.h>

#include "crypto/aes/kernel.h"
#include "crypto/aes/x86_schedule.h"
#include "crypto/aes/x86_tweak.h"

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

// Left alone, the compiler gathers work that stands between rounds in one place, where the rounds would wait
// for it.
COFRE_INLINE void hold_here(__m256i* state) {
  __asm__ volatile(""
                   : "+x"(state[0]), "+x"(state[1]), "+x"(state[2]), "+x"(state[3]), "+x"(state[4]),
                     "+x"(state[5]), "+x"(state[6]), "+x"(state[7])
                   :
                   : "memory");
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

// 2 * count blocks.
COFRE_INLINE void encrypt_some(RoundKeys keys, int rounds, int count, const uint8_t* source,
                               uint8_t* destination) {
  __m256i state[kRegisters];
  const __m256i first = twice(keys[0]);
  for (int i = 0; i < count; ++i) state[i] = _mm256_xor_si256(load(source + kRegisterBytes * i), first);
  encrypt_middle(state, count, keys, rounds);
  const __m256i last = twice(keys[rounds]);
  for (int i = 0; i < count; ++i)
    store(destination + kRegisterBytes * i, _mm256_aesenclast_epi128(state[i], last));
}

COFRE_INLINE void encrypt_one(RoundKeys keys, int rounds, const uint8_t* source, uint8_t* destination) {
  __m128i state = _mm_xor_si128(load_block(source), load_block(keys[0]));
  for (int round = 1; round < rounds; ++round) state = _mm_aesenc_si128(state, load_block(keys[round]));
  store_block(destination, _mm_aesenclast_si128(state, load_block(keys[rounds])));
}

// What is left over goes in ever smaller parts, which run side by side: nothing in one waits for another.
COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const RoundKeys keys = schedule_at(schedule).encrypt;
  const int rounds = schedule_at(schedule).rounds;
  size_t at = 0;
  for (; blocks >= kBeside; blocks -= kBeside, at += kChunkBytes)
    encrypt_some(keys, rounds, kRegisters, source + at, destination + at);
  for (; blocks >= 8; blocks -= 8, at += 4 * kRegisterBytes)
    encrypt_some(keys, rounds, 4, source + at, destination + at);
  for (; blocks >= kLanes; blocks -= kLanes, at += kRegisterBytes)
    encrypt_some(keys, rounds, 1, source + at, destination + at);
  if (blocks > 0) encrypt_one(keys, rounds, source + at, destination + at);
}

// x^128 = x^7 + x^2 + x + 1 (IEEE 1619 section 5.2).
COFRE_INLINE __m256i reduction() {
  return _mm256_set1_epi64x(0x87);
}

COFRE_INLINE __m256i lanes_of_words(int64_t h3, int64_t h2, int64_t h1, int64_t h0, int64_t l3, int64_t l2,
                                    int64_t l1, int64_t l0) {
  const auto word = [](int64_t value) { return static_cast<int>(value); };
  return _mm256_set_epi32(word(h3), word(h2), word(h1), word(h0), word(l3), word(l2), word(l1), word(l0));
}

// t * x^16 and t * x^24.
COFRE_INLINE __m256i times_x16_and_x24(__m128i tweak) {
  const __m256i both = _mm256_broadcastsi128_si256(tweak);
  const __m256i moved =
      _mm256_shuffle_epi8(both, lanes_of_words(0x0c0b0a09, 0x08070605, 0x04030201, 0x00ffffff,  //
                                               0x0d0c0b0a, 0x09080706, 0x05040302, 0x0100ffff));
  const __m256i out =
      _mm256_shuffle_epi8(both, lanes_of_words(-1, -1, -1, 0xff0f0e0d, -1, -1, -1, 0xffff0f0e));
  return _mm256_xor_si256(moved, _mm256_clmulepi64_epi128(out, reduction(), 0x00));
}

// The tweaks times x. Bits that leave a half come back in the other one, those of the upper half reduced.
COFRE_INLINE __m256i double_tweaks(__m256i tweak) {
  const __m256i carries = _mm256_shuffle_epi32(_mm256_srai_epi32(tweak, 31), _MM_SHUFFLE(0, 1, 0, 3));
  const __m256i places = lanes_of_words(0, 1, 0, 0x87, 0, 1, 0, 0x87);
  return _mm256_xor_si256(_mm256_add_epi64(tweak, tweak), _mm256_and_si256(carries, places));
}

// Makes the tweaks of one unit after the other. The ports that compute AES can do little else beside it, and
// so can the integer units: each makes half of the tweaks.
struct TweakMaker {
  ScalarTweak low;  // blocks 0 to 15, one a step
  __m256i high;     // blocks 16 to 23 and 24 to 31, one of each every other step
  __m256i high_before;
  const uint8_t* iv;  // of the sector the unit belongs to
  size_t sector_bytes;
  size_t left;  // bytes of that sector from this unit on
};

COFRE_INLINE void begin_unit(TweakMaker& maker, __m128i start) {
  maker.low = {static_cast<uint64_t>(_mm_cvtsi128_si64(start)),
               static_cast<uint64_t>(_mm_extract_epi64(start, 1))};
  // Left to itself, the compiler keeps the two in a vector register.
  __asm__("" : "+r"(maker.low.low), "+r"(maker.low.high));
  maker.high = times_x16_and_x24(start);
  maker.high_before = maker.high;
}

// Goes on to the unit after this one, and gives its first tweak.
COFRE_INLINE __m128i next_unit(TweakMaker& maker) {
  maker.left -= kXtsUnitBytes;
  if (maker.left != 0) return _mm256_extracti128_si256(maker.high, 1);
  maker.iv += kAesBlockBytes;
  maker.left = maker.sector_bytes;
  return load_block(maker.iv);
}

// Step 0 to 15.
COFRE_INLINE void make_tweaks(TweakMaker& maker, XtsUnitTweaks& unit, int step) {
  store_and_double(unit.block[step], maker.low);
  if (step % 2 == 0) return;
  const int at = step / 2;
  if (at % 2 == 1) {
    const __m256i first = _mm256_inserti128_si256(maker.high_before, _mm256_castsi256_si128(maker.high), 1);
    const __m256i second = _mm256_permute2x128_si256(maker.high_before, maker.high, 0x31);
    store(reinterpret_cast<uint8_t*>(&unit.block[16 + at - 1]), first);
    store(reinterpret_cast<uint8_t*>(&unit.block[24 + at - 1]), second);
  }
  maker.high_before = maker.high;
  maker.high = double_tweaks(maker.high);
}

// The first units of a run have no rounds before them to hide in, so what counts for them is latency: all
// of their tweaks are made at once, by vectors.

// From t in both lanes: t * x^(first + lane).
COFRE_INLINE __m256i spread_tweak(__m256i tweak, int first) {
  const __m256i left = _mm256_set_epi64x(first + 1, first + 1, first, first);
  const __m256i carry = _mm256_srlv_epi64(tweak, _mm256_sub_epi64(_mm256_set1_epi64x(64), left));
  const __m256i moved = _mm256_xor_si256(_mm256_sllv_epi64(tweak, left), _mm256_bslli_epi128(carry, 8));
  return _mm256_xor_si256(moved, _mm256_clmulepi64_epi128(carry, reduction(), 0x01));
}

// The last byte, the last two and the last three of each tweak, reduced: what comes back in when the tweak is
// multiplied by x^8, x^16 and x^24. One multiplication makes the three, in bytes 0 to 1, 2 to 4 and 5 to 8.
COFRE_INLINE __m256i reduced_tails(__m256i tweak) {
  const __m256i tails = _mm256_shuffle_epi8(
      tweak, lanes_of_words(-1, -1, 0x0f0e0dff, 0x0f0eff0f, -1, -1, 0x0f0e0dff, 0x0f0eff0f));
  return _mm256_clmulepi64_epi128(tails, reduction(), 0x00);
}

// `start` is the tweak of block 0. Leaves in `maker` what comes after the unit.
COFRE_INLINE void make_first_unit(TweakMaker& maker, XtsUnitTweaks& unit, __m128i start) {
  const __m256i both = _mm256_broadcastsi128_si256(start);
  auto* const pairs = reinterpret_cast<__m256i*>(unit.block);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __m256i t = spread_tweak(both, kLanes * i);
    const __m256i tails = reduced_tails(t);
    const __m256i x8 = lanes_of_words(-1, -1, -1, 0xffff0100, -1, -1, -1, 0xffff0100);
    const __m256i x16 = lanes_of_words(-1, -1, -1, 0xff040302, -1, -1, -1, 0xff040302);
    const __m256i x24 = lanes_of_words(-1, -1, -1, 0x08070605, -1, -1, -1, 0x08070605);
    pairs[i] = t;
    pairs[i + 4] = _mm256_xor_si256(_mm256_bslli_epi128(t, 1), _mm256_shuffle_epi8(tails, x8));
    pairs[i + 8] = _mm256_xor_si256(_mm256_bslli_epi128(t, 2), _mm256_shuffle_epi8(tails, x16));
    pairs[i + 12] = _mm256_xor_si256(_mm256_bslli_epi128(t, 3), _mm256_shuffle_epi8(tails, x24));
  }
  maker.high = spread_tweak(both, 32);
  maker.high = _mm256_permute2x128_si256(maker.high, maker.high, 0x00);
}

// The text plus key plus tweak, two instructions: left alone, the compiler adds text and tweak first and
// loads one of them apart.
COFRE_INLINE __m256i add_three(const uint8_t* text, __m256i key, const uint8_t* tweak) {
  __m256i sum = _mm256_xor_si256(key, load(text));
  __asm__("" : "+x"(sum));
  return _mm256_xor_si256(sum, load(tweak));
}

COFRE_INLINE __m256i crypt_round(bool encrypt, __m256i state, __m256i key) {
  return encrypt ? _mm256_aesenc_epi128(state, key) : _mm256_aesdec_epi128(state, key);
}

COFRE_INLINE __m256i crypt_last(bool encrypt, __m256i state, __m256i key) {
  return encrypt ? _mm256_aesenclast_epi128(state, key) : _mm256_aesdeclast_epi128(state, key);
}

// Half a unit. In the shadow of its rounds half the steps for the `later` unit, if there is one, are made,
// from `first_step` on.
COFRE_INLINE void xts_chunk(RoundKeys keys, int rounds, bool encrypt, const ScalarTweak* tweaks,
                            TweakMaker& maker, XtsUnitTweaks* later, int first_step, const uint8_t* source,
                            uint8_t* destination) {
  const auto* const tweak = reinterpret_cast<const uint8_t*>(tweaks);
  __m256i state[kRegisters];
  const __m256i first = twice(keys[0]);
  for (int i = 0; i < kRegisters; ++i)
    state[i] = add_three(source + kRegisterBytes * i, first, tweak + kRegisterBytes * i);
#pragma unroll
  for (int round = 1; round < rounds; ++round) {
    const __m256i key = twice(keys[round]);
    for (int i = 0; i < kRegisters; ++i) state[i] = crypt_round(encrypt, state[i], key);
    if (later == nullptr || round > kRegisters) continue;
    make_tweaks(maker, *later, first_step + round - 1);
    hold_here(state);
  }
  // All of the last rounds stand before the stores: alternating, they are slower.
  const __m256i last = twice(keys[rounds]);
  for (int i = 0; i < kRegisters; ++i)
    state[i] = crypt_last(encrypt, state[i], _mm256_xor_si256(last, load(tweak + kRegisterBytes * i)));
  hold_here(state);
  for (int i = 0; i < kRegisters; ++i) store(destination + kRegisterBytes * i, state[i]);
}

COFRE_INLINE void xts_unit(RoundKeys keys, int rounds, bool encrypt, const XtsUnitTweaks& tweaks,
                           TweakMaker& maker, XtsUnitTweaks* later, const uint8_t* source,
                           uint8_t* destination) {
  xts_chunk(keys, rounds, encrypt, tweaks.block, maker, later, 0, source, destination);
  xts_chunk(keys, rounds, encrypt, tweaks.block + kBeside, maker, later, kRegisters, source + kChunkBytes,
            destination + kChunkBytes);
}

// Tweaks are made two units ahead: see XtsUnitTweaks.
COFRE_INLINE void xts_run(RoundKeys keys, int rounds, bool encrypt, const AesRun& run) {
  constexpr size_t kAhead = 2;
  XtsUnitTweaks tweaks[kAhead + 1];
  TweakMaker maker;
  maker.iv = run.ivs;
  maker.sector_bytes = run.sector_bytes;
  maker.left = run.sector_bytes;
  const size_t units = run.sectors * (run.sector_bytes / kXtsUnitBytes);
  make_first_unit(maker, tweaks[0], load_block(run.ivs));
  if (units > 1) make_first_unit(maker, tweaks[1], next_unit(maker));
  size_t now = 0;
  size_t at = 0;
  for (size_t unit = kAhead; unit < units; ++unit, at += kXtsUnitBytes) {
    begin_unit(maker, next_unit(maker));
    xts_unit(keys, rounds, encrypt, tweaks[now], maker, &tweaks[now == 0 ? kAhead : now - 1], run.source + at,
             run.destination + at);
    now = now == kAhead ? 0 : now + 1;
  }
  for (; at < units * kXtsUnitBytes; at += kXtsUnitBytes) {
    xts_unit(keys, rounds, encrypt, tweaks[now], maker, nullptr, run.source + at, run.destination + at);
    now = now == kAhead ? 0 : now + 1;
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

// Sectors side by side in CBC encryption: register i works on the sectors 2 * i and 2 * i + 1.
struct Beside {
  const uint8_t* source;
  uint8_t* destination;
  size_t stride;
};

// So many bytes of each of up to 16 sectors, a block of two sectors a register: [block][register].
template <size_t kBytes>
struct alignas(64) Column {
  __m256i block[kBytes / kAesBlockBytes][kRegisters];
};

constexpr size_t kLineBytes = 64;  // what is moved at once, of each of two sectors
constexpr size_t kLineBlocks = kLineBytes / kAesBlockBytes;

// Moves the n-th line of the column whose first byte in the sectors is `at`: all lines of sectors 0 and 1,
// then those of sectors 2 and 3, and so on.
template <size_t kBytes>
COFRE_INLINE void gather(Column<kBytes>& column, size_t n, const Beside& beside, size_t at) {
  constexpr size_t kLines = kBytes / kLineBytes;
  const size_t i = n / kLines;
  const size_t line = n % kLines;
  const uint8_t* from = beside.source + 2 * i * beside.stride + at + line * kLineBytes;
  for (size_t k = line * kLineBlocks; k < (line + 1) * kLineBlocks; k += 2, from += kRegisterBytes) {
    const __m256i even = load(from);
    const __m256i odd = load(from + beside.stride);
    column.block[k][i] = _mm256_permute2x128_si256(even, odd, 0x20);
    column.block[k + 1][i] = _mm256_permute2x128_si256(even, odd, 0x31);
  }
}

template <size_t kBytes>
COFRE_INLINE void scatter(const Column<kBytes>& column, size_t n, const Beside& beside, size_t at) {
  constexpr size_t kLines = kBytes / kLineBytes;
  const size_t i = n / kLines;
  const size_t line = n % kLines;
  uint8_t* to = beside.destination + 2 * i * beside.stride + at + line * kLineBytes;
  for (size_t k = line * kLineBlocks; k < (line + 1) * kLineBlocks; k += 2, to += kRegisterBytes) {
    const __m256i first = column.block[k][i];
    const __m256i second = column.block[k + 1][i];
    store(to, _mm256_permute2x128_si256(first, second, 0x20));
    store(to + beside.stride, _mm256_permute2x128_si256(first, second, 0x31));
  }
}

// What is moved in the shadow of a column's rounds: the column after it and the one before, where there are.
template <size_t kBytes>
struct Moves {
  Column<kBytes>* after;
  size_t after_at;
  const Column<kBytes>* before;
  size_t before_at;
};

// Block k of a column. A line or two are moved in and as many out, until all `lines` are.
template <size_t kBytes>
COFRE_INLINE void cbc_encrypt_block(RoundKeys keys, int rounds, int count, __m256i* state,
                                    const Column<kBytes>& in, Column<kBytes>& out, int k,
                                    const Beside& beside, const Moves<kBytes>& moves) {
  const int lines = count * static_cast<int>(kBytes / kLineBytes);
  const int turns = count > kRegisters / 2 ? 2 : 1;
  const __m256i first = twice(keys[0]);
  for (int i = 0; i < count; ++i)
    state[i] = _mm256_xor_si256(state[i], _mm256_xor_si256(in.block[k][i], first));
#pragma unroll
  for (int round = 1; round < rounds; ++round) {
    const __m256i key = twice(keys[round]);
    for (int i = 0; i < count; ++i) state[i] = _mm256_aesenc_epi128(state[i], key);
    const int turn = (round / 2) % 2;
    const int n = turns * k + turn;
    if (round % 2 == 1 || round > 8 || turn >= turns || n >= lines) continue;
    if (round <= 4 && moves.after != nullptr) gather(*moves.after, n, beside, moves.after_at);
    if (round > 4 && moves.before != nullptr) scatter(*moves.before, n, beside, moves.before_at);
    if (count == kRegisters) hold_here(state);
  }
  const __m256i last = twice(keys[rounds]);
  for (int i = 0; i < count; ++i) {
    state[i] = _mm256_aesenclast_epi128(state[i], last);
    out.block[k][i] = state[i];
  }
}

// 2 * count sectors, a column after the other.
template <size_t kBytes>
COFRE_INLINE void cbc_encrypt_columns(RoundKeys keys, int rounds, int count, const Beside& beside,
                                      const uint8_t* ivs) {
  const int lines = count * static_cast<int>(kBytes / kLineBytes);
  Column<kBytes> in[2];
  Column<kBytes> out[2];
  __m256i state[kRegisters];
  for (int i = 0; i < count; ++i) state[i] = load(ivs + kRegisterBytes * i);
  for (int n = 0; n < lines; ++n) gather(in[0], n, beside, 0);
  size_t here = 0;
  for (size_t at = 0; at < beside.stride; at += kBytes) {
    here = at / kBytes % 2;
    const Moves<kBytes> moves = {at + kBytes < beside.stride ? &in[1 - here] : nullptr, at + kBytes,
                                 at > 0 ? &out[1 - here] : nullptr, at - kBytes};
    for (int k = 0; k < static_cast<int>(kBytes / kAesBlockBytes); ++k)
      cbc_encrypt_block(keys, rounds, count, state, in[here], out[here], k, beside, moves);
  }
  for (int n = 0; n < lines; ++n) scatter(out[here], n, beside, beside.stride - kBytes);
}

// Sectors first .. first + 2 * count - 1. The lines of larger sectors fall into few sets of the cache, as
// they are a power of two apart. Each is visited once, and its neighbour with it: so the processor, which
// fetches ahead, does not fetch what others push out before it is used.
COFRE_INLINE void cbc_encrypt_beside(RoundKeys keys, int rounds, int count, const AesRun& run, size_t first) {
  const size_t at = first * run.sector_bytes;
  const Beside beside = {run.source + at, run.destination + at, run.sector_bytes};
  const uint8_t* ivs = run.ivs + kAesBlockBytes * first;
  if (run.sector_bytes == 512)
    cbc_encrypt_columns<64>(keys, rounds, count, beside, ivs);
  else
    cbc_encrypt_columns<128>(keys, rounds, count, beside, ivs);
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

COFRE_INLINE void cbc_encrypt_run(RoundKeys keys, int rounds, const AesRun& run) {
  size_t first = 0;
  for (; run.sectors - first >= kBeside; first += kBeside)
    cbc_encrypt_beside(keys, rounds, kRegisters, run, first);
  for (; run.sectors - first >= 8; first += 8) cbc_encrypt_beside(keys, rounds, 4, run, first);
  for (; run.sectors - first >= 2; first += 2) cbc_encrypt_beside(keys, rounds, 1, run, first);
  if (first < run.sectors) cbc_encrypt_one(keys, rounds, run, first);
  sectors_done_here += run.sectors;
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

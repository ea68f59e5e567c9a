// AES with VAES on 512-bit registers: four blocks an instruction, eight registers (32 blocks) in flight.
//
// With 32 registers the round keys stay in registers, so every loop is compiled once for each number of
// rounds. XTS: eight registers are one 512-byte data unit. CBC encryption: up to 32 sectors side by side,
// four a register.
#include <immintrin.h>

#include "crypto/aes/kernel.h"
#include "crypto/aes/x86_schedule.h"

// Builds that do not optimize leave the loop that asks for it rolled up, which is right for them.
#pragma clang diagnostic ignored "-Wpass-failed"

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
COFRE_INLINE void store_block(uint8_t* to, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), value);
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
COFRE_INLINE void encrypt_some(RoundKeys keys, int rounds, int count, const uint8_t* source,
                               uint8_t* destination, size_t blocks) {
  __m512i state[kRegisters];
  const __m512i first = four_times(keys[0]);
  for (int i = 0; i < count; ++i) {
    const __m512i text = _mm512_maskz_loadu_epi64(lanes_in_use(i, blocks), source + kRegisterBytes * i);
    state[i] = _mm512_xor_si512(text, first);
  }
  for (int round = 1; round < rounds; ++round) {
    const __m512i key = four_times(keys[round]);
    for (int i = 0; i < count; ++i) state[i] = _mm512_aesenc_epi128(state[i], key);
  }
  const __m512i last = four_times(keys[rounds]);
  for (int i = 0; i < count; ++i) {
    const __m512i text = _mm512_aesenclast_epi128(state[i], last);
    _mm512_mask_storeu_epi64(destination + kRegisterBytes * i, lanes_in_use(i, blocks), text);
  }
}

COFRE_INLINE void encrypt_one(RoundKeys keys, int rounds, const uint8_t* source, uint8_t* destination) {
  __m128i state = _mm_xor_si128(load_block(source), load_block(keys[0]));
  for (int round = 1; round < rounds; ++round) state = _mm_aesenc_si128(state, load_block(keys[round]));
  store_block(destination, _mm_aesenclast_si128(state, load_block(keys[rounds])));
}

// The fewer blocks, the fewer registers. A single one, of a request of one sector, is read again at once and
// must not have been stored under a mask: such a store is not forwarded.
COFRE_TARGET void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination,
                                 size_t blocks) {
  const RoundKeys keys = schedule_at(schedule).encrypt;
  const int rounds = schedule_at(schedule).rounds;
  for (; blocks >= kBeside; blocks -= kBeside, source += kChunkBytes, destination += kChunkBytes)
    encrypt_some(keys, rounds, kRegisters, source, destination, kBeside);
  if (blocks > size_t{2} * kLanes)
    encrypt_some(keys, rounds, kRegisters, source, destination, blocks);
  else if (blocks > 1)
    encrypt_some(keys, rounds, 2, source, destination, blocks);
  else if (blocks == 1)
    encrypt_one(keys, rounds, source, destination);
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

// One block's tweak times x^32: four bytes move up, those that fall out come back reduced.
COFRE_INLINE __m128i tweak_times_x32(__m128i tweak) {
  const __m128i out = _mm_bsrli_si128(tweak, 12);
  return _mm_xor_si128(_mm_bslli_si128(tweak, 4), _mm_clmulepi64_si128(out, _mm_set1_epi64x(0x87), 0x00));
}

// The last byte, the last two and the last three of each tweak, reduced: what comes back in when the tweak is
// multiplied by x^8, x^16 and x^24. One multiplication makes the three, in bytes 0 to 1, 2 to 4 and 5 to 8:
// on some processors it occupies the unit that computes AES.
COFRE_INLINE __m512i reduced_tails(__m512i tweak) {
  const __m512i tails =
      _mm512_shuffle_epi8(tweak, _mm512_set4_epi32(-1, -1, 0x0f0e0dff, static_cast<int>(0x0f0eff0f)));
  return _mm512_clmulepi64_epi128(tails, reduction(), 0x00);
}

// The tweaks times x^8, x^16 and x^24: `bytes` bytes move up. Plus `key`.
COFRE_INLINE __m512i moved_tweak(__m512i tweak, __m512i tails, int bytes, __m512i key) {
  switch (bytes) {
    case 1:
      return xor_three(
          _mm512_bslli_epi128(tweak, 1),
          _mm512_shuffle_epi8(tails, _mm512_set4_epi32(-1, -1, -1, static_cast<int>(0xffff0100))), key);
    case 2:
      return xor_three(
          _mm512_bslli_epi128(tweak, 2),
          _mm512_shuffle_epi8(tails, _mm512_set4_epi32(-1, -1, -1, static_cast<int>(0xff040302))), key);
    default:
      return xor_three(_mm512_bslli_epi128(tweak, 3),
                       _mm512_shuffle_epi8(tails, _mm512_set4_epi32(-1, -1, -1, 0x08070605)), key);
  }
}

// The tweaks of a chunk's 32 blocks: those of blocks 0 to 7, from which the others follow.
struct ChunkTweaks {
  __m512i first[2];
  __m512i tails[2];
};

// `start` is the tweak of block 0, in every lane.
COFRE_INLINE void make_half(ChunkTweaks& tweaks, int half, __m512i start) {
  tweaks.first[half] = spread_tweak(start, kLanes * half);
  tweaks.tails[half] = reduced_tails(tweaks.first[half]);
}

// The tweaks of register i, plus `key`.
COFRE_INLINE __m512i tweak_and_key(const ChunkTweaks& tweaks, int i, __m512i key) {
  if (i < 2) return _mm512_xor_si512(tweaks.first[i], key);
  return moved_tweak(tweaks.first[i % 2], tweaks.tails[i % 2], i / 2, key);
}

// Left alone, the compiler gathers work that stands between rounds in one place, where the rounds would wait
// for it.
COFRE_INLINE void hold_here(__m512i* state, __m512i& work) {
  __asm__ volatile(""
                   : "+v"(state[0]), "+v"(state[1]), "+v"(state[2]), "+v"(state[3]), "+v"(state[4]),
                     "+v"(state[5]), "+v"(state[6]), "+v"(state[7]), "+v"(work));
}

COFRE_INLINE __m512i crypt_round(bool encrypt, __m512i state, __m512i key) {
  return encrypt ? _mm512_aesenc_epi128(state, key) : _mm512_aesdec_epi128(state, key);
}

// One chunk, to whose last round key the tweaks are added already, in `last`. Between its rounds, in their
// shadow, the same is made for the chunk after it, if there is one: it starts with `next_start`.
COFRE_INLINE void xts_chunk(const __m512i* keys, int rounds, bool encrypt, __m512i* last, bool has_next,
                            __m512i next_start, const uint8_t* source, uint8_t* destination) {
  __m512i state[kRegisters];
  __m512i next_last[kRegisters];
  ChunkTweaks next;
  // The tweak and the first key: the last key is in `last` and goes out again.
  const __m512i first_and_last = _mm512_xor_si512(keys[0], keys[rounds]);
  for (int i = 0; i < kRegisters; ++i)
    state[i] = xor_three(load(source + kRegisterBytes * i), last[i], first_and_last);
#pragma unroll
  for (int round = 1; round < rounds; ++round) {
    for (int i = 0; i < kRegisters; ++i) state[i] = crypt_round(encrypt, state[i], keys[round]);
    if (!has_next || round > kRegisters) continue;
    if (round <= 2) make_half(next, round - 1, next_start);
    next_last[round - 1] = tweak_and_key(next, round - 1, keys[rounds]);
    hold_here(state, next_last[round - 1]);
  }
  for (int i = 0; i < kRegisters; ++i) {
    store(destination + kRegisterBytes * i, encrypt ? _mm512_aesenclast_epi128(state[i], last[i])
                                                    : _mm512_aesdeclast_epi128(state[i], last[i]));
    if (has_next) last[i] = next_last[i];
  }
}

COFRE_INLINE void xts_run(RoundKeys round_keys, int rounds, bool encrypt, const AesRun& run) {
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, round_keys, rounds);
  const uint8_t* iv = run.ivs;
  __m128i start = load_block(iv);
  ChunkTweaks tweaks;
  for (int half = 0; half < 2; ++half) make_half(tweaks, half, _mm512_broadcast_i32x4(start));
  __m512i last[kRegisters];
  for (int i = 0; i < kRegisters; ++i) last[i] = tweak_and_key(tweaks, i, keys[rounds]);
  const size_t last_at = run.sectors * run.sector_bytes - kChunkBytes;
  size_t left = run.sector_bytes;
  for (size_t at = 0; at < last_at; at += kChunkBytes) {
    left -= kChunkBytes;
    if (left == 0) {
      iv += kAesBlockBytes;
      start = load_block(iv);
      left = run.sector_bytes;
    } else {
      start = tweak_times_x32(start);
    }
    xts_chunk(keys, rounds, encrypt, last, true, _mm512_broadcast_i32x4(start), run.source + at,
              run.destination + at);
  }
  xts_chunk(keys, rounds, encrypt, last, false, _mm512_setzero_si512(), run.source + last_at,
            run.destination + last_at);
  sectors_done_here += run.sectors;
}

// Sectors side by side in CBC encryption: lane i of the registers works on the i-th. `used` of them are
// there; the lanes left over read the last one again and write nothing.
struct Beside {
  const uint8_t* source;
  uint8_t* destination;
  size_t stride;
  size_t used;
};

// So many bytes of each of up to 32 sectors, a block of four sectors a register: [block][register].
template <size_t kBytes>
struct alignas(64) Column {
  __m512i block[kBytes / kAesBlockBytes][kRegisters];
};

// Rows of four blocks become columns, and back.
COFRE_INLINE void transpose(__m512i* row) {
  const __m512i t0 = _mm512_shuffle_i64x2(row[0], row[1], 0x44);
  const __m512i t1 = _mm512_shuffle_i64x2(row[0], row[1], 0xee);
  const __m512i t2 = _mm512_shuffle_i64x2(row[2], row[3], 0x44);
  const __m512i t3 = _mm512_shuffle_i64x2(row[2], row[3], 0xee);
  row[0] = _mm512_shuffle_i64x2(t0, t2, 0x88);
  row[1] = _mm512_shuffle_i64x2(t0, t2, 0xdd);
  row[2] = _mm512_shuffle_i64x2(t1, t3, 0x88);
  row[3] = _mm512_shuffle_i64x2(t1, t3, 0xdd);
}

// Moves the n-th line, a register's 64 bytes, of four sectors of the column whose first byte in them is `at`:
// all lines of sectors 0 to 3, then those of sectors 4 to 7, and so on.
template <size_t kBytes>
COFRE_INLINE void gather(Column<kBytes>& column, size_t n, const Beside& beside, size_t at) {
  constexpr size_t kLines = kBytes / kRegisterBytes;
  const size_t i = n / kLines;
  const size_t line = n % kLines;
  __m512i row[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const size_t wanted = kLanes * i + lane;
    const size_t sector = wanted < beside.used ? wanted : beside.used - 1;
    row[lane] = load(beside.source + sector * beside.stride + at + line * kRegisterBytes);
  }
  transpose(row);
  for (int k = 0; k < kLanes; ++k) column.block[kLanes * line + k][i] = row[k];
}

template <size_t kBytes>
COFRE_INLINE void scatter(const Column<kBytes>& column, size_t n, const Beside& beside, size_t at) {
  constexpr size_t kLines = kBytes / kRegisterBytes;
  const size_t i = n / kLines;
  const size_t line = n % kLines;
  __m512i row[kLanes];
  for (int k = 0; k < kLanes; ++k) row[k] = column.block[kLanes * line + k][i];
  transpose(row);
  for (int lane = 0; lane < kLanes; ++lane) {
    const size_t sector = kLanes * i + lane;
    if (sector < beside.used)
      store(beside.destination + sector * beside.stride + at + line * kRegisterBytes, row[lane]);
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

// Block k of a column. A line or two are moved in and as many out, until all are.
template <size_t kBytes>
COFRE_INLINE void cbc_encrypt_block(const __m512i* keys, int rounds, int count, __m512i* state,
                                    const Column<kBytes>& in, Column<kBytes>& out, int k,
                                    const Beside& beside, const Moves<kBytes>& moves) {
  const int lines = count * static_cast<int>(kBytes / kRegisterBytes);
  const int turns = count > kRegisters / 2 ? 2 : 1;
  for (int i = 0; i < count; ++i) state[i] = xor_three(state[i], in.block[k][i], keys[0]);
#pragma unroll
  for (int round = 1; round < rounds; ++round) {
    for (int i = 0; i < count; ++i) state[i] = _mm512_aesenc_epi128(state[i], keys[round]);
    const int turn = (round / 2) % 2;
    const int n = turns * k + turn;
    if (round % 2 == 1 || round > 8 || turn >= turns || n >= lines) continue;
    if (round <= 4 && moves.after != nullptr) gather(*moves.after, n, beside, moves.after_at);
    if (round > 4 && moves.before != nullptr) scatter(*moves.before, n, beside, moves.before_at);
  }
  for (int i = 0; i < count; ++i) {
    state[i] = _mm512_aesenclast_epi128(state[i], keys[rounds]);
    out.block[k][i] = state[i];
  }
}

// At most 4 * count sectors, on `count` registers, a column after the other.
template <size_t kBytes>
COFRE_INLINE void cbc_encrypt_columns(const __m512i* keys, int rounds, int count, const Beside& beside,
                                      const uint8_t* ivs) {
  const int lines = count * static_cast<int>(kBytes / kRegisterBytes);
  Column<kBytes> in[2];
  Column<kBytes> out[2];
  __m512i state[kRegisters];
  for (int i = 0; i < count; ++i)
    state[i] = _mm512_maskz_loadu_epi64(lanes_in_use(i, beside.used), ivs + kRegisterBytes * i);
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

// The lines of larger sectors fall into few sets of the cache, as they are a power of two apart. Each is
// visited once, and its neighbour with it: so the processor, which fetches ahead, does not fetch what others
// push out before it is used.
COFRE_INLINE void cbc_encrypt_beside(const __m512i* keys, int rounds, int count, const Beside& beside,
                                     const uint8_t* ivs) {
  if (beside.stride == 512)
    cbc_encrypt_columns<64>(keys, rounds, count, beside, ivs);
  else
    cbc_encrypt_columns<256>(keys, rounds, count, beside, ivs);
}

COFRE_INLINE void cbc_encrypt_run(RoundKeys round_keys, int rounds, const AesRun& run) {
  __m512i keys[kMaxAesRounds + 1];
  load_keys(keys, round_keys, rounds);
  for (size_t first = 0; first < run.sectors; first += kBeside) {
    const size_t left = run.sectors - first;
    const size_t at = first * run.sector_bytes;
    const Beside beside = {run.source + at, run.destination + at, run.sector_bytes,
                           left < kBeside ? left : kBeside};
    const uint8_t* ivs = run.ivs + 16 * first;
    if (beside.used > kBeside / 2)
      cbc_encrypt_beside(keys, rounds, kRegisters, beside, ivs);
    else if (beside.used > size_t{2} * kLanes)
      cbc_encrypt_beside(keys, rounds, kRegisters / 2, beside, ivs);
    else if (beside.used > kLanes)
      cbc_encrypt_beside(keys, rounds, 2, beside, ivs);
    else
      cbc_encrypt_beside(keys, rounds, 1, beside, ivs);
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
    .register_bytes = 64,
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

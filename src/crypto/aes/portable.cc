// AES for any processor: bitsliced, eight blocks at a time, in constant time: no table, no branch and no
// address depends on a key or on the text.
//
// Eight vectors hold eight blocks: vector b has bit b of every byte, byte p of the vector that of byte p of
// the state in row-major order, and bit j of it that of block j. So SubBytes is a circuit of logic gates,
// ShiftRows and the rotations of MixColumns are byte shuffles (after Käsper and Schwabe, "Faster and
// Timing-Attack Resistant AES-GCM", 2009). The S-box circuit is that of Boyar and Peralta, "A depth-16
// circuit for the AES S-box", ePrint 2011/332. The compiler's generic vectors become whatever the processor
// has.
#include <bit>
#include <cstring>

#include "crypto/aes/kernel.h"
#include "crypto/aes/key_expansion.h"

namespace cofre::crypto {
namespace {

using Vector [[gnu::vector_size(16)]] = uint8_t;
using Words [[gnu::vector_size(16)]] = uint64_t;

constexpr size_t kSlices = 8;
constexpr size_t kParallelBlocks = 8;
constexpr size_t kParallelBytes = kParallelBlocks * kAesBlockBytes;

struct Slices {
  Vector v[kSlices];
};

struct alignas(64) PortableAesSchedule {
  Slices round_keys[kMaxAesRounds + 1];
  int rounds;
};
static_assert(sizeof(PortableAesSchedule) <= kMaxAesScheduleBytes);

thread_local uint64_t sectors_done_here = 0;

// Exchanges the bits of `a` under mask << shift with those of `b` under mask.
inline void swap_bits(Vector& a, Vector& b, uint64_t mask, int shift) {
  const Words left = std::bit_cast<Words>(a);
  const Words right = std::bit_cast<Words>(b);
  const Words difference = ((left >> shift) ^ right) & mask;
  b = std::bit_cast<Vector>(right ^ difference);
  a = std::bit_cast<Vector>(left ^ (difference << shift));
}

// Transposes the 8 by 8 bits at each byte position; its own inverse.
inline void transpose_bits(Slices& s) {
  constexpr uint64_t kOdd = 0x5555555555555555, kPairs = 0x3333333333333333, kNibbles = 0x0f0f0f0f0f0f0f0f;
  for (int i : {0, 2, 4, 6}) swap_bits(s.v[i], s.v[i + 1], kOdd, 1);
  for (int i : {0, 1, 4, 5}) swap_bits(s.v[i], s.v[i + 2], kPairs, 2);
  for (int i : {0, 1, 2, 3}) swap_bits(s.v[i], s.v[i + 4], kNibbles, 4);
}

// AES numbers the bytes of a block down the columns; its own inverse.
inline Vector swap_rows_and_columns(Vector x) {
  return __builtin_shufflevector(x, x, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

inline void load_blocks(Slices& s, const uint8_t* from) {
  for (size_t i = 0; i < kParallelBlocks; ++i) {
    std::memcpy(&s.v[i], from + i * kAesBlockBytes, kAesBlockBytes);
    s.v[i] = swap_rows_and_columns(s.v[i]);
  }
  transpose_bits(s);
}

inline void store_blocks(Slices s, uint8_t* to) {
  transpose_bits(s);
  for (size_t i = 0; i < kParallelBlocks; ++i) {
    const Vector block = swap_rows_and_columns(s.v[i]);
    std::memcpy(to + i * kAesBlockBytes, &block, kAesBlockBytes);
  }
}

// The circuit's names: x0 is the highest bit, y and t are its linear and nonlinear parts, z the products.
inline void sub_bytes(Slices& s) {
  const Vector x0 = s.v[7], x1 = s.v[6], x2 = s.v[5], x3 = s.v[4], x4 = s.v[3], x5 = s.v[2], x6 = s.v[1],
               x7 = s.v[0];
  const Vector y14 = x3 ^ x5, y13 = x0 ^ x6, y9 = x0 ^ x3, y8 = x0 ^ x5, t0 = x1 ^ x2, y1 = t0 ^ x7,
               y4 = y1 ^ x3;
  const Vector y12 = y13 ^ y14, y2 = y1 ^ x0, y5 = y1 ^ x6, y3 = y5 ^ y8, t1 = x4 ^ y12, y15 = t1 ^ x5,
               y20 = t1 ^ x1;
  const Vector y6 = y15 ^ x7, y10 = y15 ^ t0, y11 = y20 ^ y9, y7 = x7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8;
  const Vector y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = x0 ^ y16;

  const Vector t2 = y12 & y15, t4 = (y3 & y6) ^ t2, t6 = (y4 & x7) ^ t2, t7 = y13 & y16, t9 = (y5 & y1) ^ t7;
  const Vector t11 = (y2 & y7) ^ t7, t12 = y9 & y11, t14 = (y14 & y17) ^ t12, t16 = (y8 & y10) ^ t12;
  const Vector t21 = t4 ^ t14 ^ y20, t22 = t6 ^ t16 ^ y19, t23 = t9 ^ t14 ^ y21, t24 = t11 ^ t16 ^ y18;
  const Vector t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t29 = (t25 & t27) ^ t22, t30 = t23 ^ t24;
  const Vector t31 = t22 ^ t26, t33 = (t31 & t30) ^ t24, t34 = t23 ^ t33, t35 = t27 ^ t33, t36 = t24 & t35;
  const Vector t37 = t36 ^ t34, t38 = t27 ^ t36, t40 = t25 ^ (t29 & t38), t41 = t40 ^ t37, t42 = t29 ^ t33;
  const Vector t43 = t29 ^ t40, t44 = t33 ^ t37, t45 = t42 ^ t41;

  const Vector z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x7, z3 = t43 & y16, z4 = t40 & y1, z5 = t29 & y7;
  const Vector z6 = t42 & y11, z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12, z10 = t37 & y3, z11 = t33 & y4;
  const Vector z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2, z15 = t42 & y9, z16 = t45 & y14,
               z17 = t41 & y8;

  const Vector t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12,
               t51 = z2 ^ z5;
  const Vector t52 = z7 ^ z8, t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17, t56 = z12 ^ t48, t57 = t50 ^ t53;
  const Vector t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57, t61 = z14 ^ t57, t62 = t52 ^ t58,
               t63 = t49 ^ t58;
  const Vector t64 = z4 ^ t59, t65 = t61 ^ t62, t66 = z1 ^ t63, t67 = t64 ^ t65, s3 = t53 ^ t66;
  s.v[7] = t59 ^ t63;
  s.v[6] = t64 ^ ~s3;
  s.v[5] = t55 ^ ~t67;
  s.v[4] = s3;
  s.v[3] = t51 ^ t66;
  s.v[2] = t47 ^ t65;
  s.v[1] = t56 ^ ~t62;
  s.v[0] = t48 ^ ~t60;
}

// The inverse of the affine map in the S-box (FIPS 197 section 5.3.2): bit i is the sum of bits i+2, i+5,
// i+7, and of 0x05.
inline void inverse_affine(Slices& s) {
  const Slices x = s;
  for (size_t i = 0; i < kSlices; ++i) s.v[i] = x.v[(i + 2) % 8] ^ x.v[(i + 5) % 8] ^ x.v[(i + 7) % 8];
  s.v[0] = ~s.v[0];
  s.v[2] = ~s.v[2];
}

// S = affine(inverse(x)), so the inverse of S is the inverse affine map, S, and the inverse affine map again.
inline void inverse_sub_bytes(Slices& s) {
  inverse_affine(s);
  sub_bytes(s);
  inverse_affine(s);
}

inline void shift_rows(Slices& s) {
  for (Vector& x : s.v)
    x = __builtin_shufflevector(x, x, 0, 1, 2, 3, 5, 6, 7, 4, 10, 11, 8, 9, 15, 12, 13, 14);
}

inline void inverse_shift_rows(Slices& s) {
  for (Vector& x : s.v)
    x = __builtin_shufflevector(x, x, 0, 1, 2, 3, 7, 4, 5, 6, 10, 11, 8, 9, 13, 14, 15, 12);
}

inline Vector next_row(Vector x) {
  return __builtin_shufflevector(x, x, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3);
}

inline Vector row_after_next(Vector x) {
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

// Bit b of x times the polynomial x, modulo x^8 + x^4 + x^3 + x + 1.
inline Vector doubled_bit(const Vector* x, size_t b) {
  if (b == 0) return x[7];
  return b == 1 || b == 3 || b == 4 ? x[b - 1] ^ x[7] : x[b - 1];
}

// With d the sum of a row and the next one: 2a + 3a' + a'' + a''' = 2d + a' + d''.
inline void mix_columns(Slices& s) {
  Slices next, sum;
  for (size_t b = 0; b < kSlices; ++b) {
    next.v[b] = next_row(s.v[b]);
    sum.v[b] = s.v[b] ^ next.v[b];
  }
  for (size_t b = 0; b < kSlices; ++b) s.v[b] = doubled_bit(sum.v, b) ^ next.v[b] ^ row_after_next(sum.v[b]);
}

// The inverse matrix is that of MixColumns times the circulant (5, 0, 4, 0): a + 4(a + a'') goes first.
inline void inverse_mix_columns(Slices& s) {
  Slices sum, twice;
  for (size_t b = 0; b < kSlices; ++b) sum.v[b] = s.v[b] ^ row_after_next(s.v[b]);
  for (size_t b = 0; b < kSlices; ++b) twice.v[b] = doubled_bit(sum.v, b);
  for (size_t b = 0; b < kSlices; ++b) s.v[b] ^= doubled_bit(twice.v, b);
  mix_columns(s);
}

inline void add_round_key(Slices& s, const Slices& key) {
  for (size_t b = 0; b < kSlices; ++b) s.v[b] ^= key.v[b];
}

void encrypt_slices(const PortableAesSchedule& schedule, Slices& s) {
  add_round_key(s, schedule.round_keys[0]);
  for (int round = 1; round < schedule.rounds; ++round) {
    sub_bytes(s);
    shift_rows(s);
    mix_columns(s);
    add_round_key(s, schedule.round_keys[round]);
  }
  sub_bytes(s);
  shift_rows(s);
  add_round_key(s, schedule.round_keys[schedule.rounds]);
}

void decrypt_slices(const PortableAesSchedule& schedule, Slices& s) {
  add_round_key(s, schedule.round_keys[schedule.rounds]);
  for (int round = schedule.rounds - 1; round > 0; --round) {
    inverse_shift_rows(s);
    inverse_sub_bytes(s);
    add_round_key(s, schedule.round_keys[round]);
    inverse_mix_columns(s);
  }
  inverse_shift_rows(s);
  inverse_sub_bytes(s);
  add_round_key(s, schedule.round_keys[0]);
}

const PortableAesSchedule& schedule_at(const void* schedule) {
  return *static_cast<const PortableAesSchedule*>(schedule);
}

// Eight blocks, in place.
void encrypt_eight(const PortableAesSchedule& schedule, uint8_t* blocks) {
  Slices s;
  load_blocks(s, blocks);
  encrypt_slices(schedule, s);
  store_blocks(s, blocks);
}

void decrypt_eight(const PortableAesSchedule& schedule, uint8_t* blocks) {
  Slices s;
  load_blocks(s, blocks);
  decrypt_slices(schedule, s);
  store_blocks(s, blocks);
}

void xor_bytes(uint8_t* target, const uint8_t* a, const uint8_t* b, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) target[i] = a[i] ^ b[i];
}

uint32_t sub_word(uint32_t word) {
  uint8_t blocks[kParallelBytes] = {};
  store_le<uint32_t>(blocks, word);
  Slices s;
  load_blocks(s, blocks);
  sub_bytes(s);
  store_blocks(s, blocks);
  return load_le<uint32_t>(blocks);
}

void expand_key(const uint8_t* key, size_t key_bytes, void* schedule) {
  auto& expanded = *static_cast<PortableAesSchedule*>(schedule);
  uint8_t round_keys[kMaxAesRounds + 1][16];
  expand_aes_key(key, key_bytes, sub_word, round_keys);
  expanded.rounds = aes_rounds(key_bytes);
  uint8_t copies[kParallelBytes];
  for (int round = 0; round <= expanded.rounds; ++round) {
    for (size_t i = 0; i < kParallelBlocks; ++i) std::memcpy(copies + 16 * i, round_keys[round], 16);
    load_blocks(expanded.round_keys[round], copies);
  }
  explicit_bzero(copies, sizeof copies);
  explicit_bzero(round_keys, sizeof round_keys);
}

void encrypt_blocks(const void* schedule, const uint8_t* source, uint8_t* destination, size_t blocks) {
  while (blocks > 0) {
    const size_t batch = blocks < kParallelBlocks ? blocks : kParallelBlocks;
    uint8_t work[kParallelBytes] = {};
    std::memcpy(work, source, batch * kAesBlockBytes);
    encrypt_eight(schedule_at(schedule), work);
    std::memcpy(destination, work, batch * kAesBlockBytes);
    source += batch * kAesBlockBytes;
    destination += batch * kAesBlockBytes;
    blocks -= batch;
  }
}

// IEEE 1619 section 5.2: the tweak of a block is that of the block before times x.
inline void double_tweak(uint64_t& low, uint64_t& high) {
  const uint64_t carry = (0 - (high >> 63)) & 0x87;
  high = (high << 1) | (low >> 63);
  low = (low << 1) ^ carry;
}

using EightBlocks = void (*)(const PortableAesSchedule& schedule, uint8_t* blocks);

inline void xts_sector(const PortableAesSchedule& schedule, const uint8_t* source, uint8_t* destination,
                       const uint8_t* first_tweak, size_t bytes, EightBlocks crypt) {
  uint64_t low = load_le<uint64_t>(first_tweak);
  uint64_t high = load_le<uint64_t>(first_tweak + 8);
  for (size_t at = 0; at < bytes; at += kParallelBytes) {
    uint8_t tweaks[kParallelBytes];
    uint8_t work[kParallelBytes];
    for (size_t i = 0; i < kParallelBlocks; ++i) {
      store_le<uint64_t>(tweaks + 16 * i, low);
      store_le<uint64_t>(tweaks + 16 * i + 8, high);
      double_tweak(low, high);
    }
    xor_bytes(work, source + at, tweaks, kParallelBytes);
    crypt(schedule, work);
    xor_bytes(destination + at, work, tweaks, kParallelBytes);
  }
}

inline void xts_run(const void* schedule, const AesRun& run, EightBlocks crypt) {
  for (size_t i = 0; i < run.sectors; ++i)
    xts_sector(schedule_at(schedule), run.source + i * run.sector_bytes,
               run.destination + i * run.sector_bytes, run.ivs + i * kAesBlockBytes, run.sector_bytes, crypt);
  sectors_done_here += run.sectors;
}

void xts_encrypt(const void* schedule, const AesRun& run) {
  xts_run(schedule, run, encrypt_eight);
}
void xts_decrypt(const void* schedule, const AesRun& run) {
  xts_run(schedule, run, decrypt_eight);
}

// Up to eight sectors side by side: block by block, the same place in each.
void cbc_encrypt_beside(const PortableAesSchedule& schedule, const AesRun& run, size_t first, size_t count) {
  uint8_t chain[kParallelBytes] = {};
  std::memcpy(chain, run.ivs + first * kAesBlockBytes, count * kAesBlockBytes);
  for (size_t at = 0; at < run.sector_bytes; at += kAesBlockBytes) {
    for (size_t i = 0; i < count; ++i)
      xor_bytes(chain + 16 * i, chain + 16 * i, run.source + (first + i) * run.sector_bytes + at,
                kAesBlockBytes);
    encrypt_eight(schedule, chain);
    for (size_t i = 0; i < count; ++i)
      std::memcpy(run.destination + (first + i) * run.sector_bytes + at, chain + 16 * i, kAesBlockBytes);
  }
}

void cbc_encrypt(const void* schedule, const AesRun& run) {
  for (size_t first = 0; first < run.sectors; first += kParallelBlocks) {
    const size_t left = run.sectors - first;
    cbc_encrypt_beside(schedule_at(schedule), run, first, left < kParallelBlocks ? left : kParallelBlocks);
  }
  sectors_done_here += run.sectors;
}

void cbc_decrypt_sector(const PortableAesSchedule& schedule, const uint8_t* source, uint8_t* destination,
                        const uint8_t* iv, size_t bytes) {
  uint8_t chain[kAesBlockBytes + kParallelBytes];  // the ciphertext block before, then eight
  std::memcpy(chain, iv, kAesBlockBytes);
  for (size_t at = 0; at < bytes; at += kParallelBytes) {
    uint8_t work[kParallelBytes];
    std::memcpy(chain + kAesBlockBytes, source + at, kParallelBytes);
    std::memcpy(work, source + at, kParallelBytes);
    decrypt_eight(schedule, work);
    xor_bytes(destination + at, work, chain, kParallelBytes);
    std::memcpy(chain, chain + kParallelBytes, kAesBlockBytes);
  }
}

void cbc_decrypt(const void* schedule, const AesRun& run) {
  for (size_t i = 0; i < run.sectors; ++i)
    cbc_decrypt_sector(schedule_at(schedule), run.source + i * run.sector_bytes,
                       run.destination + i * run.sector_bytes, run.ivs + i * kAesBlockBytes,
                       run.sector_bytes);
  sectors_done_here += run.sectors;
}

uint64_t sectors_done() {
  return sectors_done_here;
}

}  // namespace

const AesKernel kAesPortable = {
    .name = "portable",
    .description = "bitsliced, constant-time, for any processor",
    .needs = {},
    .register_bytes = 0,
    .schedule_bytes = sizeof(PortableAesSchedule),
    .expand_key = expand_key,
    .encrypt_blocks = encrypt_blocks,
    .xts_encrypt = xts_encrypt,
    .xts_decrypt = xts_decrypt,
    .cbc_encrypt = cbc_encrypt,
    .cbc_decrypt = cbc_decrypt,
    .sectors_done = sectors_done,
};

}  // namespace cofre::crypto

// Whether a branch or an address depends on a secret: run under valgrind's memcheck, with keys and texts
// marked as undefined. Memcheck complains when such a byte, or anything computed from it, decides a jump or
// an address; computing with it is allowed. That is what constant time asks for.
//
//   valgrind secret_flow KERNEL      no complaint, and the right result
//   valgrind secret_flow table       an S-box looked up in a table is caught
//   valgrind secret_flow branch      a tweak doubled with a branch is caught
#include <valgrind/memcheck.h>

#include <cstdio>
#include <cstring>
#include <string_view>

#include "crypto/aes/kernel.h"

namespace cofre::crypto {
namespace {

constexpr size_t kSectors = 5;
constexpr size_t kBytes = kSectors * 512;

struct Secrets {
  uint8_t key[32];
  uint8_t tweak_key[32];
  uint8_t text[kBytes];
};

void fill(Secrets& secrets) {
  auto* byte = reinterpret_cast<uint8_t*>(&secrets);
  for (size_t i = 0; i < sizeof secrets; ++i) byte[i] = static_cast<uint8_t>(i * 151 + (i >> 5));
}

using Run = void (*)(const void* schedule, const AesRun& run);

// Keys expanded, IVs encrypted, text encrypted and decrypted, in each mode: all results go to `out`.
void use_kernel(const AesKernel& kernel, size_t key_bytes, const Secrets& secrets, uint8_t* out) {
  alignas(64) uint8_t schedule[kMaxAesScheduleBytes];
  alignas(64) uint8_t tweak_schedule[kMaxAesScheduleBytes];
  kernel.expand_key(secrets.key, key_bytes, schedule);
  kernel.expand_key(secrets.tweak_key, key_bytes, tweak_schedule);
  uint8_t ivs[16 * kSectors] = {};
  for (size_t i = 0; i < kSectors; ++i) ivs[16 * i] = static_cast<uint8_t>(i);
  kernel.encrypt_blocks(tweak_schedule, ivs, ivs, kSectors);
  for (const Run run : {kernel.xts_encrypt, kernel.xts_decrypt, kernel.cbc_encrypt, kernel.cbc_decrypt}) {
    run(schedule, AesRun{secrets.text, out, ivs, kSectors, 512});
    out += kBytes;
  }
}

constexpr size_t kOutBytes = 4 * kBytes;

long complaints() {
  return VALGRIND_COUNT_ERRORS;
}

bool all_undefined(uint8_t* out) {
  static uint8_t undefined[kOutBytes];
  if (VALGRIND_GET_VBITS(out, undefined, kOutBytes) != 1) return false;
  VALGRIND_MAKE_MEM_DEFINED(undefined, kOutBytes);
  for (const uint8_t bits : undefined)
    if (bits != 0xff) return false;
  return true;
}

bool kernel_is_constant_time(const AesKernel& kernel) {
  static Secrets secrets;
  static uint8_t expected[kOutBytes];
  static uint8_t out[kOutBytes];
  for (const size_t key_bytes : {16, 24, 32}) {
    fill(secrets);
    use_kernel(kernel, key_bytes, secrets, expected);
    VALGRIND_MAKE_MEM_UNDEFINED(&secrets, sizeof secrets);
    use_kernel(kernel, key_bytes, secrets, out);
    if (!all_undefined(out)) return false;  // the secrets must have reached every result
    VALGRIND_MAKE_MEM_DEFINED(out, kOutBytes);
    VALGRIND_MAKE_MEM_DEFINED(&secrets, sizeof secrets);
    if (std::memcmp(out, expected, kOutBytes) != 0) return false;
  }
  return true;
}

// What memcheck must catch. `volatile`, so that no compiler makes it constant-time.
uint8_t substitute_by_table(uint8_t byte) {
  static volatile uint8_t table[256];
  return table[byte];
}

uint8_t double_by_branch(uint8_t byte) {
  volatile uint8_t carry = 0;
  if ((byte & 0x80) != 0) carry = 0x87;
  return static_cast<uint8_t>((byte << 1) ^ carry);
}

bool is_caught(uint8_t (*leak)(uint8_t)) {
  uint8_t secret = 0x5a;
  VALGRIND_MAKE_MEM_UNDEFINED(&secret, 1);
  const long before = complaints();
  volatile uint8_t result = leak(secret);
  static_cast<void>(result);
  return complaints() > before;
}

const AesKernel* kernel_named(std::string_view name) {
  for (const AesKernel* kernel : {
           &kAesPortable,
#if defined(__x86_64__)
           &kAesNi,
#endif
       })
    if (kernel->name == name) return kernel;
  return nullptr;
}

int run(std::string_view subject) {
  if (RUNNING_ON_VALGRIND == 0) {
    std::puts("this test says nothing without valgrind");
    return 2;
  }
  if (subject == "table") return is_caught(substitute_by_table) ? 0 : 1;
  if (subject == "branch") return is_caught(double_by_branch) ? 0 : 1;
  const AesKernel* const kernel = kernel_named(subject);
  if (kernel == nullptr || !has_all(cpu_features(), kernel->needs)) return 2;
  const long before = complaints();
  const bool right = kernel_is_constant_time(*kernel);
  const long found = complaints() - before;
  std::printf("%s: %s, %ld complaints\n", kernel->name.data(), right ? "right" : "wrong", found);
  return right && found == 0 ? 0 : 1;
}

}  // namespace
}  // namespace cofre::crypto

int main(int argc, char** argv) {
  return argc == 2 ? cofre::crypto::run(argv[1]) : 2;
}

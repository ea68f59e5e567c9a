// The program that the tests watch: known AES instructions, and results that show whether they were harmed.
//
//   target forms                  executes every form that the processor has, and prints their names
//   target chain THREADS MS       threads that compute in step so long, or until SIGUSR2, and check results
//   target load LIBRARY           loads and unloads a library twice, computing in it
//   target fork|vfork             a child computes / a child executes `target chain 1 1`
//   target data                   adds up data that lies among code
//   target generated              writes code with AES into anonymous memory, runs it, and checks it
//   target churn MS               threads that compute once, ever new ones, so long
//   target filter ACTION MS       computes under a seccomp filter against mmap: errno, trap or kill
//   target filter-load LIBRARY    the same after a filter that kills for tgkill, a second and a half ago
//   target exit CODE / signal N   ends so
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string_view>
#include <thread>
#include <vector>

extern "C" {
void chain(void* block, uint64_t rounds);
uint64_t data_inside();
uint64_t odd_data_inside();
}

// The forms of forms.S, and what the processor needs for them.
#define FORMS(X)                  \
  X(legacy_aesenc, aes)           \
  X(legacy_aesenclast, aes)       \
  X(legacy_aesdec, aes)           \
  X(legacy_aesdeclast, aes)       \
  X(legacy_aesimc, aes)           \
  X(legacy_aeskeygenassist, aes)  \
  X(vex128_vaesenc, vex)          \
  X(vex128_vaesenclast, vex)      \
  X(vex128_vaesdec, vex)          \
  X(vex128_vaesdeclast, vex)      \
  X(vex128_vaesimc, vex)          \
  X(vex128_vaeskeygenassist, vex) \
  X(vex256_vaesenc, vaes)         \
  X(vex256_vaesenclast, vaes)     \
  X(vex256_vaesdec, vaes)         \
  X(vex256_vaesdeclast, vaes)     \
  X(evex128_vaesenc, evex)        \
  X(evex128_vaesenclast, evex)    \
  X(evex128_vaesdec, evex)        \
  X(evex128_vaesdeclast, evex)    \
  X(evex256_vaesenc, evex)        \
  X(evex256_vaesenclast, evex)    \
  X(evex256_vaesdec, evex)        \
  X(evex256_vaesdeclast, evex)    \
  X(evex512_vaesenc, evex512)     \
  X(evex512_vaesenclast, evex512) \
  X(evex512_vaesdec, evex512)     \
  X(evex512_vaesdeclast, evex512)

#define DECLARE(name, need) extern "C" void name();
FORMS(DECLARE)

namespace {

using Block = std::array<uint64_t, 2>;

bool has(std::string_view need) {
  __builtin_cpu_init();
  const bool aes = __builtin_cpu_supports("aes");
  if (need == "aes") return aes;
  if (need == "vex") return aes && __builtin_cpu_supports("avx");
  const bool vaes = __builtin_cpu_supports("vaes") && __builtin_cpu_supports("avx2");
  if (need == "vaes") return vaes;
  const bool avx512 = vaes && __builtin_cpu_supports("avx512f");
  return need == "evex" ? avx512 && __builtin_cpu_supports("avx512vl") : avx512;
}

int run_forms() {
#define RUN(name, need) \
  if (has(#need)) {     \
    name();             \
    std::puts(#name);   \
  }
  FORMS(RUN)
  return 0;
}

Block chained(uint64_t rounds) {
  Block block = {1, 2};
  chain(block.data(), rounds);
  return block;
}

// Threads that begin together and repeat one computation: whatever is planted or taken out meanwhile, the
// result stays.
volatile sig_atomic_t asked_to_end = 0;

int run_chain(unsigned threads, unsigned milliseconds) {
  constexpr uint64_t kRounds = 1000;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  std::atomic<unsigned> waiting = threads;
  std::atomic<uint64_t> wrong = 0;
  Block expected = {};
  std::atomic<bool> known = false;
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < threads; ++i)
    workers.emplace_back([&, i] {
      --waiting;
      while (waiting != 0) {
      }
      do {
        const Block found = chained(kRounds);
        if (i == 0 && !known) {
          expected = found;
          known = true;
        }
        if (known && found != expected) ++wrong;
      } while (asked_to_end == 0 && std::chrono::steady_clock::now() < end);
    });
  for (std::thread& worker : workers) worker.join();
  std::printf("%016llx%016llx\n", static_cast<unsigned long long>(expected[0]),
              static_cast<unsigned long long>(expected[1]));
  return wrong == 0 ? 0 : 3;
}

int run_churn(unsigned milliseconds) {
  constexpr uint64_t kRounds = 1000;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  const Block expected = chained(kRounds);
  std::atomic<uint64_t> wrong = 0;
  while (std::chrono::steady_clock::now() < end) {
    std::vector<std::thread> workers;
    for (unsigned i = 0; i < 8; ++i)
      workers.emplace_back([&] { wrong += chained(kRounds) == expected ? 0 : 1; });
    for (std::thread& worker : workers) worker.join();
  }
  std::puts(wrong == 0 ? "right" : "wrong");
  return wrong == 0 ? 0 : 3;
}

// From now on `action` for the system call `number`.
bool filter(unsigned number, uint32_t action) {
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                           BPF_STMT(BPF_RET | BPF_K, action), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog all = {.len = std::size(program), .filter = program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all, 0, 0) == 0;
}

int run_filter(std::string_view action, unsigned milliseconds) {
  constexpr uint64_t kRounds = 1000;
  const uint32_t answer = action == "kill"   ? SECCOMP_RET_KILL_PROCESS
                          : action == "trap" ? SECCOMP_RET_TRAP
                                             : SECCOMP_RET_ERRNO | 1;
  std::puts("ready");  // before mmap is forbidden, which its buffer takes
  std::fflush(stdout);
  if (!filter(SYS_mmap, answer)) return 9;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  const Block expected = chained(kRounds);
  while (std::chrono::steady_clock::now() < end)
    if (chained(kRounds) != expected) return 3;
  std::puts("right");
  return 0;
}

int run_load(const char* path) {
  for (int i = 0; i < 2; ++i) {
    void* const library = dlopen(path, RTLD_NOW);
    if (library == nullptr) return 4;
    const auto function = reinterpret_cast<void (*)(void*, uint64_t)>(dlsym(library, "library_chain"));
    Block block = {1, 2};
    function(block.data(), 1000);
    std::printf("%016llx\n", static_cast<unsigned long long>(block[0]));
    dlclose(library);
  }
  return 0;
}

int run_filter_load(const char* path) {
  if (!filter(SYS_tgkill, SECCOMP_RET_KILL_PROCESS)) return 9;
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  return run_load(path);
}

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}

int run_fork() {
  const pid_t child = fork();
  if (child == 0) _exit(run_chain(2, 1));
  return wait_for(child);
}

int run_vfork(const char* self) {
  const pid_t child = vfork();
  if (child == 0) {
    execl(self, self, "chain", "1", "1", nullptr);
    _exit(6);
  }
  return wait_for(child);
}

int run_data() {
  std::printf("%llu %llu\n", static_cast<unsigned long long>(data_inside()),
              static_cast<unsigned long long>(odd_data_inside()));
  return 0;
}

int run_generated() {
  constexpr std::array<uint8_t, 6> kCode = {0x66, 0x0f, 0x38, 0xdc, 0xc1, 0xc3};  // aesenc %xmm1, %xmm0; ret
  void* const page =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 7;
  std::memcpy(page, kCode.data(), kCode.size());
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(600);
  while (std::chrono::steady_clock::now() < end) {
    reinterpret_cast<void (*)()>(page)();
    if (std::memcmp(page, kCode.data(), kCode.size()) != 0) return 8;
  }
  return 0;
}

unsigned number(const char* text) {
  return static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGUSR2, [](int) { asked_to_end = 1; });
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "forms") return run_forms();
  if (what == "chain" && argc == 4) return run_chain(number(argv[2]), number(argv[3]));
  if (what == "load" && argc == 3) return run_load(argv[2]);
  if (what == "churn" && argc == 3) return run_churn(number(argv[2]));
  if (what == "filter" && argc == 4) return run_filter(argv[2], number(argv[3]));
  if (what == "filter-load" && argc == 3) return run_filter_load(argv[2]);
  if (what == "fork") return run_fork();
  if (what == "vfork") return run_vfork(argv[0]);
  if (what == "data") return run_data();
  if (what == "generated") return run_generated();
  if (what == "exit" && argc == 3) return static_cast<int>(number(argv[2]));
  if (what == "signal" && argc == 3) return raise(static_cast<int>(number(argv[2])));
  return 2;
}

// Every AES kernel of this processor beside the limit of its instructions, OpenSSL and libgcrypt, in one run.
// `cofre bench crypto` shows the same figures.
#include <cstdio>

#include "crypto/aes/select.h"
#include "crypto/measure/report.h"

int main() {
  using namespace cofre::crypto;
  std::vector<const AesKernel*> kernels;
  for (const AesKernel* kernel : aes_kernels())
    if (has_all(cpu_features(), kernel->needs)) kernels.push_back(kernel);
  const SpeedReport report = measure_aes(kernels, all_speed_cases(), {.turns = 15});
  std::fputs(speed_text(report).c_str(), stdout);
  return 0;
}

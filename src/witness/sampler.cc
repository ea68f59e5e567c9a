#include "witness/sampler.h"

#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>

#include "base/bytes.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kDataBytes = 8 * kPage;  // a power of two
constexpr uint64_t kRingBytes = kPage + kDataBytes;

// The records of a ring, read through its wrap.
class Records {
 public:
  explicit Records(void* pages)
      : control_(static_cast<perf_event_mmap_page*>(pages)),
        data_(static_cast<const std::byte*>(pages) + kPage),
        tail_(control_->data_tail),
        head_(std::atomic_ref(control_->data_head).load(std::memory_order_acquire)) {}
  ~Records() { std::atomic_ref(control_->data_tail).store(tail_, std::memory_order_release); }
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;

  // The instruction pointer of the next sample; false when there is none.
  bool next(uint64_t& address) {
    while (head_ - tail_ >= sizeof(perf_event_header)) {
      perf_event_header header;
      copy(tail_, &header, sizeof header);
      if (header.size < sizeof header) return false;
      const uint64_t body = tail_ + sizeof header;
      tail_ += header.size;
      if (header.type != PERF_RECORD_SAMPLE) continue;
      copy(body, &address, sizeof address);
      return true;
    }
    return false;
  }

 private:
  void copy(uint64_t from, void* into, size_t length) const {
    for (size_t i = 0; i < length; ++i) static_cast<std::byte*>(into)[i] = data_[(from + i) % kDataBytes];
  }

  perf_event_mmap_page* control_;
  const std::byte* data_;
  uint64_t tail_;
  uint64_t head_;
};

}  // namespace

PerfSampler::~PerfSampler() {
  for (const auto& [tid, ring] : rings_) {
    ::munmap(ring.pages, kRingBytes);
    ::close(ring.fd);
  }
}

bool PerfSampler::add(pid_t tid) {
  if (rings_.contains(tid)) return true;
  perf_event_attr attributes = {};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_CPU_CLOCK;
  attributes.freq = 1;
  attributes.sample_freq = kFrequency_hz;
  attributes.sample_type = PERF_SAMPLE_IP;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  const auto fd =
      static_cast<int>(::syscall(SYS_perf_event_open, &attributes, tid, -1, -1, PERF_FLAG_FD_CLOEXEC));
  if (fd < 0) return false;
  void* const pages = ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (pages == MAP_FAILED) {
    ::close(fd);
    return false;
  }
  rings_[tid] = {fd, pages};
  return true;
}

void PerfSampler::drain(const std::function<void(pid_t, uint64_t)>& visit) {
  for (const auto& [tid, ring] : rings_) {
    Records records(ring.pages);
    for (uint64_t address = 0; records.next(address);) visit(tid, address);
  }
}

}  // namespace cofre::witness

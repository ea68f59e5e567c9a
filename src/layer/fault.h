// A device that fails on purpose, for tests: errors, torn writes, a disk that is full, delays.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <vector>

#include "layer/filter.h"

namespace cofre::layer {

enum class RequestKind : uint8_t { kRead, kWrite, kWriteZeroes, kDiscard, kFlush, kMap, kResize, kClose };
inline constexpr size_t kRequestKinds = 8;

// A set of request kinds.
class RequestKinds {
 public:
  constexpr RequestKinds(RequestKind kind) : bits_(1u << static_cast<unsigned>(kind)) {}
  static constexpr RequestKinds all() { return RequestKinds((1u << kRequestKinds) - 1); }
  static constexpr RequestKinds changes() {
    return RequestKinds(RequestKind::kWrite) | RequestKind::kWriteZeroes | RequestKind::kDiscard |
           RequestKind::kResize;
  }
  constexpr bool has(RequestKind kind) const { return (bits_ >> static_cast<unsigned>(kind) & 1) != 0; }
  friend constexpr RequestKinds operator|(RequestKinds a, RequestKinds b) {
    return RequestKinds(a.bits_ | b.bits_);
  }

 private:
  constexpr explicit RequestKinds(unsigned bits) : bits_(bits) {}
  unsigned bits_;
};
constexpr RequestKinds operator|(RequestKind a, RequestKind b) {
  return RequestKinds(a) | RequestKinds(b);
}

// Which requests fail, and how. Those counted are the ones of `kinds` that touch [begin, end); requests
// without a range (flush, resize, close) touch every range.
struct Fault {
  RequestKinds kinds = RequestKinds::all();
  uint64_t begin = 0;
  uint64_t end = UINT64_MAX;
  uint64_t skip = 0;                             // so many pass first
  std::optional<uint64_t> count = std::nullopt;  // so many fail, then all pass; none: for good
  uint32_t one_in = 1;                           // of those left, one in so many fails, as the seed has it
  int errno_value = 5;                           // EIO
  bool tears = false;  // a write that fails has written its first half (of whole request alignments)
};

// Any lane may send requests and change the rules.
class FaultDevice final : public Filter {
 public:
  explicit FaultDevice(std::unique_ptr<block::Device> inner, uint64_t seed = 0)
      : Filter(std::move(inner)), random_(seed) {}

  void add(const Fault& fault);
  // Of the requests of `kinds`, counted from now and from 0, the `number`th fails, and only that.
  void fail_once(uint64_t number, RequestKinds kinds = RequestKinds::all(), int errno_value = 5);
  void clear();
  // Writes and write_zeroes that would exceed so many bytes in all, from now, fail with ENOSPC.
  void limit_written_bytes(uint64_t bytes);
  // Requests of `kinds` take between these times longer, as the seed has it.
  void delay(RequestKinds kinds, uint64_t shortest_ns, uint64_t longest_ns);

  // Requests that came, failed ones included.
  uint64_t requests(RequestKind kind) const;
  uint64_t requests() const;
  uint64_t failures() const;
  using Filter::inner;

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  // Closes what is below even when it then fails, as close(2) does.
  io::task<void> close() override;

 private:
  struct Rule {
    Fault fault;
    uint64_t seen = 0;
    uint64_t failed = 0;
  };
  struct Verdict {
    int errno_value = 0;  // 0: passes
    bool tears = false;
    uint64_t delay_ns = 0;
  };
  struct Delay {
    RequestKinds kinds;
    uint64_t shortest_ns;
    uint64_t longest_ns;
  };
  Verdict judge(RequestKind kind, uint64_t offset, uint64_t length);
  bool fails(Rule& rule, RequestKind kind, uint64_t offset, uint64_t length);
  bool exceeds_space(RequestKind kind, uint64_t length);
  // Waits, and throws if the verdict says so.
  io::task<void> pass(RequestKind kind, uint64_t offset, uint64_t length);
  [[noreturn]] void throw_fault(RequestKind kind, uint64_t offset, uint64_t length, int errno_value) const;

  mutable std::mutex mutex_;  // over all below
  std::mt19937_64 random_;
  std::vector<Rule> rules_;
  std::vector<Delay> delays_;
  std::optional<uint64_t> space_left_;
  std::array<uint64_t, kRequestKinds> requests_{};
  uint64_t failures_ = 0;
};

}  // namespace cofre::layer

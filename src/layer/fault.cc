#include "layer/fault.h"

#include <cerrno>

#include "base/checked.h"
#include "base/error.h"
#include "io/reactor.h"

namespace cofre::layer {
namespace {

const char* name_of(RequestKind kind) {
  constexpr const char* kNames[kRequestKinds] = {"read",  "write", "write_zeroes", "discard",
                                                 "flush", "map",   "resize",       "close"};
  return kNames[static_cast<size_t>(kind)];
}

bool has_range(RequestKind kind) {
  return kind != RequestKind::kFlush && kind != RequestKind::kResize && kind != RequestKind::kClose;
}

}  // namespace

void FaultDevice::add(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  rules_.push_back({fault});
}

void FaultDevice::fail_once(uint64_t number, RequestKinds kinds, int errno_value) {
  Fault fault;
  fault.kinds = kinds;
  fault.skip = number;
  fault.count = 1;
  fault.errno_value = errno_value;
  add(fault);
}

void FaultDevice::clear() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
  delays_.clear();
  space_left_.reset();
}

void FaultDevice::limit_written_bytes(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  space_left_ = bytes;
}

void FaultDevice::delay(RequestKinds kinds, uint64_t shortest_ns, uint64_t longest_ns) {
  const std::lock_guard lock(mutex_);
  delays_.push_back({kinds, shortest_ns, longest_ns});
}

uint64_t FaultDevice::requests(RequestKind kind) const {
  const std::lock_guard lock(mutex_);
  return requests_[static_cast<size_t>(kind)];
}

uint64_t FaultDevice::requests() const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const uint64_t of_kind : requests_) sum += of_kind;
  return sum;
}

uint64_t FaultDevice::failures() const {
  const std::lock_guard lock(mutex_);
  return failures_;
}

bool FaultDevice::fails(Rule& rule, RequestKind kind, uint64_t offset, uint64_t length) {
  const Fault& fault = rule.fault;
  if (!fault.kinds.has(kind)) return false;
  if (has_range(kind) && !(offset < fault.end && fault.begin < offset + length)) return false;
  if (rule.seen++ < fault.skip) return false;
  if (fault.count && rule.failed >= *fault.count) return false;
  if (random_() % fault.one_in != 0) return false;
  ++rule.failed;
  return true;
}

bool FaultDevice::exceeds_space(RequestKind kind, uint64_t length) {
  if (!space_left_ || (kind != RequestKind::kWrite && kind != RequestKind::kWriteZeroes)) return false;
  if (length > *space_left_) return true;
  *space_left_ -= length;
  return false;
}

FaultDevice::Verdict FaultDevice::judge(RequestKind kind, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  ++requests_[static_cast<size_t>(kind)];
  Verdict verdict;
  for (const Delay& delay : delays_)
    if (delay.kinds.has(kind))
      verdict.delay_ns += delay.shortest_ns + random_() % (delay.longest_ns - delay.shortest_ns + 1);
  for (Rule& rule : rules_)  // every rule counts, the first that fails decides
    if (fails(rule, kind, offset, length) && verdict.errno_value == 0) {
      verdict.errno_value = rule.fault.errno_value;
      verdict.tears = rule.fault.tears;
    }
  if (verdict.errno_value == 0 && exceeds_space(kind, length)) verdict.errno_value = ENOSPC;
  failures_ += verdict.errno_value != 0 ? 1 : 0;
  return verdict;
}

void FaultDevice::throw_fault(RequestKind kind, uint64_t offset, uint64_t length, int errno_value) const {
  fail_errno(errno_value, "fault injected into {} of {} bytes at offset {} of '{}'", name_of(kind), length,
             offset, name());
}

io::task<void> FaultDevice::pass(RequestKind kind, uint64_t offset, uint64_t length) {
  const Verdict verdict = judge(kind, offset, length);
  if (verdict.delay_ns > 0) co_await io::sleep_ns(verdict.delay_ns);
  if (verdict.errno_value != 0) throw_fault(kind, offset, length, verdict.errno_value);
}

io::task<void> FaultDevice::read(uint64_t offset, Bytes destination) {
  co_await pass(RequestKind::kRead, offset, destination.size());
  co_await inner().read(offset, destination);
}

io::task<void> FaultDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  const Verdict verdict = judge(RequestKind::kWrite, offset, source.size());
  if (verdict.delay_ns > 0) co_await io::sleep_ns(verdict.delay_ns);
  if (verdict.errno_value == 0) {
    co_await inner().write(offset, source, flags);
    co_return;
  }
  const uint64_t half = align_down<uint64_t>(source.size() / 2, limits().request_alignment);
  if (verdict.tears && half > 0) co_await inner().write(offset, source.first(half));
  throw_fault(RequestKind::kWrite, offset, source.size(), verdict.errno_value);
}

io::task<void> FaultDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  co_await pass(RequestKind::kWriteZeroes, offset, length);
  co_await inner().write_zeroes(offset, length, flags);
}

io::task<void> FaultDevice::discard(uint64_t offset, uint64_t length) {
  co_await pass(RequestKind::kDiscard, offset, length);
  co_await inner().discard(offset, length);
}

io::task<void> FaultDevice::flush() {
  co_await pass(RequestKind::kFlush, 0, 0);
  co_await inner().flush();
}

io::task<block::Extent> FaultDevice::map(uint64_t offset, uint64_t length) {
  co_await pass(RequestKind::kMap, offset, length);
  co_return co_await inner().map(offset, length);
}

io::task<void> FaultDevice::resize(uint64_t length) {
  co_await pass(RequestKind::kResize, 0, length);
  co_await inner().resize(length);
}

io::task<void> FaultDevice::close() {
  const Verdict verdict = judge(RequestKind::kClose, 0, 0);
  co_await inner().close();
  if (verdict.errno_value != 0) throw_fault(RequestKind::kClose, 0, 0, verdict.errno_value);
}

}  // namespace cofre::layer

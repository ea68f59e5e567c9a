#include "format/qcow2/read_ahead.h"

#include <algorithm>
#include <array>
#include <exception>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "format/qcow2/read_padded.h"
#include "io/sync.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kBatchBytes = 2 * kMiB;

// Items read together; those that failed are read again one by one when their turn comes, to know which it
// was.
struct Batch {
  AlignedBuffer bytes;
  size_t first = 0;
  size_t count = 0;
  bool whole = false;
};

class Reading {
 public:
  Reading(const ReadAhead& what, const ItemOffset& offset_of)
      : what_(what),
        offset_of_(offset_of),
        per_batch_(static_cast<size_t>(std::max<uint64_t>(1, kBatchBytes / what.item_bytes))) {}

  Batch& batch(size_t number) { return batches_[number % batches_.size()]; }
  size_t batches() const { return div_ceil(what_.count, per_batch_); }

  io::task<void> fill(size_t number) {
    Batch& batch = this->batch(number);
    batch.first = number * per_batch_;
    batch.count = std::min(per_batch_, what_.count - batch.first);
    if (!batch.bytes) batch.bytes = AlignedBuffer(per_batch_ * what_.item_bytes);
    batch.whole = false;
    try {
      for (size_t i = 0; i < batch.count;) {
        const size_t run = run_length(batch.first + i, batch.count - i);
        co_await read_padded(what_.file, offset_of_(batch.first + i), items(batch, i, run));
        i += run;
      }
      batch.whole = true;
    } catch (const Error&) {  // told by whose turn it is
    }
  }

  // Why the item cannot be read, or nothing.
  io::task<std::string> read_again(Batch& batch, size_t i) {
    try {
      co_await read_padded(what_.file, offset_of_(batch.first + i), items(batch, i, 1));
      co_return std::string();
    } catch (const Error& error) {
      co_return error.what();
    }
  }

  Bytes items(Batch& batch, size_t first, size_t count) {
    return batch.bytes.bytes().subspan(first * what_.item_bytes, count * what_.item_bytes);
  }

 private:
  size_t run_length(size_t first, size_t most) const {
    size_t run = 1;
    while (run < most && offset_of_(first + run) == offset_of_(first) + run * what_.item_bytes) ++run;
    return run;
  }

  const ReadAhead& what_;
  const ItemOffset& offset_of_;
  size_t per_batch_;
  std::array<Batch, 2> batches_;
};

io::task<void> visit_batch(Reading& reading, Batch& batch, const ItemVisit& visit) {
  std::string trouble;
  for (size_t i = 0; i < batch.count; ++i) {
    if (!batch.whole) trouble = co_await reading.read_again(batch, i);
    co_await visit(batch.first + i, reading.items(batch, i, 1), trouble);
  }
}

}  // namespace

io::task<void> read_ahead(ReadAhead what, ItemOffset offset_of, ItemVisit visit) {
  Reading reading(what, offset_of);
  io::Reactor& lane = what.lane != nullptr ? *what.lane : *io::Reactor::current();
  io::TaskGroup group;
  std::exception_ptr trouble;
  if (reading.batches() > 0) group.spawn_on(lane, reading.fill(0));
  for (size_t number = 0; number < reading.batches() && !trouble; ++number) {
    co_await group.join();
    if (number + 1 < reading.batches()) group.spawn_on(lane, reading.fill(number + 1));
    try {
      co_await visit_batch(reading, reading.batch(number), visit);
    } catch (...) {
      trouble = std::current_exception();  // the batch on its way has to arrive first
    }
  }
  co_await group.join();
  if (trouble) std::rethrow_exception(trouble);
}

}  // namespace cofre::qcow2

#include "format/qcow2/check.h"

#include <array>

#include "base/checked.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/check_context.h"
#include "format/qcow2/read_padded.h"

namespace cofre::qcow2 {
namespace {

// Counters may take this much and the size of the file: what tables of that size can refer to in earnest is
// less.
constexpr uint64_t kSpareMemoryBytes = 128 * kMiB;

uint64_t most_memory(const State& state) {
  return kSpareMemoryBytes +
         std::min(state.file->allocated_bytes().value_or(state.file->length_bytes()), uint64_t{1} << 62);
}

}  // namespace

CheckContext::CheckContext(State& state_in, const CheckOptions& options_in, CheckResult& result_in)
    : state(state_in),
      options(options_in),
      result(result_in),
      repair_errors(options.repair_errors),
      repair_leaks(options.repair_leaks || options.repair_errors),
      counts(state.name, most_memory(state)) {}

uint64_t CheckContext::file_clusters() const noexcept {
  return div_ceil(state.file->length_bytes(), cluster_bytes());
}

void CheckContext::corruption(uint64_t times, const std::string& finding) {
  result.corruptions += times;
  say(finding);
}

void CheckContext::say(const std::string& sentence) const {
  if (options.report) options.report(sentence);
}

void CheckContext::unreadable(uint64_t places, const std::string& finding) {
  result.check_errors += places;
  say(finding);
}

void CheckContext::step(uint64_t done, uint64_t total) const {
  if (options.cancelled && options.cancelled())
    fail(ErrorKind::kCancelled, "the check of '{}' was cancelled; what it repaired so far stays repaired",
         state.name);
  if (options.progress) options.progress(done, total);
}

bool CheckContext::in_file(uint64_t offset, uint64_t length) const noexcept {
  return range_within(offset, length, file_clusters() << state.header.cluster_bits);
}

io::task<void> CheckContext::read(uint64_t offset, Bytes destination) const {
  co_await read_padded(*state.file, offset, destination);
}

namespace {

// One round over the whole image. Whether something was repaired on which everything else depends: then
// another round is due.
io::task<bool> round(State& state, const CheckOptions& options, CheckResult& result) {
  CheckContext context(state, options, result);
  result.total_clusters = div_ceil(state.header.size_bytes, state.cluster_bytes());
  co_await count_references(context);
  if (context.repair_leaks)
    co_await state.file->flush();  // entries dropped stay dropped before clusters are freed
  if (context.drop_bitmaps && context.repair_errors) {
    co_await state.bitmaps.give_up_directory();
    co_return true;
  }
  co_await compare_refcounts(context);
  if (context.must_rebuild && context.repair_errors) {
    co_await rebuild_refcounts(context);
    co_return true;
  }
  if (context.must_rebuild && context.repair_leaks)
    context.say(
        "the refcount structure is damaged: only a repair of everything, not of leaks alone, can mend it");
  co_await check_copied_flags(context);
  if (context.repair_leaks) co_await state.file->flush();
  co_return false;
}

// What is in memory was read before the repair.
io::task<void> reload(State& state) {
  state.l2_cache.clear();
  state.metadata_map.clear();
  co_await state.refcounts.reload(/*tolerant=*/true);
  state.note_metadata();
  state.snapshot_tables_noted = false;
}

io::task<void> clear_trouble_bits(State& state) {
  const uint64_t features = state.header.incompatible_features & ~uint64_t{kDirty | kCorrupt};
  if (state.header.version < 3 || features == state.header.incompatible_features) co_return;
  std::array<std::byte, 8> field;
  store_be(field.data(), features);
  co_await state.write_header_fields(72, field);
  co_await state.file->flush();
  state.header.incompatible_features = features;
}

void add_fixed(CheckResult& result, const CheckResult& before) {
  result.corruptions_fixed += before.corruptions_fixed;
  result.leaks_fixed += before.leaks_fixed;
  if (before.corruptions > result.corruptions)
    result.corruptions_fixed += before.corruptions - result.corruptions;
  if (before.leaks > result.leaks) result.leaks_fixed += before.leaks - result.leaks;
}

// The bitmaps dropped, the refcount structure built anew: each once.
constexpr int kMostRepeats = 2;

// With repair: rounds that mend, then one that looks at what is left.
io::task<CheckResult> check_at_home(State& state, CheckOptions options) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  CheckResult result;
  bool again = co_await round(state, options, result);
  const bool repair = options.repair_leaks || options.repair_errors;
  if (!repair) co_return result;
  for (int left = kMostRepeats; again && left > 0; --left) {
    co_await reload(state);
    const CheckResult before = std::exchange(result, {});
    again = co_await round(state, options, result);
    add_fixed(result, before);
  }
  if (result.corruptions_fixed + result.leaks_fixed > 0) {
    co_await reload(state);
    const CheckResult before = std::exchange(result, {});
    co_await round(state,
                   {.progress = options.progress, .cancelled = options.cancelled, .reader = options.reader},
                   result);
    add_fixed(result, before);
  }
  if (result.corruptions == 0 && result.check_errors == 0) co_await clear_trouble_bits(state);
  co_return result;
}

}  // namespace

io::task<CheckResult> check(Image& image, const CheckOptions& options) {
  return at_home(image.state(), check_at_home(image.state(), options));
}

io::task<void> repair_dirty(Image& image) {
  const CheckResult result = co_await check(image, {.repair_leaks = true, .repair_errors = true});
  if (result.corruptions == 0 && result.check_errors == 0) co_return;
  fail(ErrorKind::kCorrupt,
       "'{}' was not closed after its last use, and its refcounts could not be rebuilt: {} corruptions and "
       "{} places that "
       "cannot be read are left. Run check -r all on it, or open it read-only",
       image.name(), result.corruptions, result.check_errors);
}

}  // namespace cofre::qcow2

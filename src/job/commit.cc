#include "job/commit.h"

#include "base/error.h"
#include "job/job_control.h"

namespace cofre::job {
namespace {

io::task<void> grow(block::Device& base, uint64_t length) {
  if (base.length_bytes() >= length) co_return;
  try {
    co_await base.resize(length);
  } catch (const Error& error) {
    throw error.with_context(fmt::format(
        "the image to commit has {} bytes, and its base '{}' cannot grow to that", length, base.name()));
  }
}

}  // namespace

io::task<ConvertStats> commit_on(std::vector<io::Reactor*> lanes, block::Device& top, block::Device& base,
                                 CommitOptions options) {
  co_await grow(base, top.length_bytes());
  // A copy whose source is the layers above the base, and whose target is the base: what is zero above it is
  // zeroed in it.
  ConvertOptions copy;
  copy.source_base = &base;
  copy.parallel = options.parallel;
  copy.bytes_per_second = options.bytes_per_second;
  copy.progress = std::move(options.progress);
  const ConvertStats stats = co_await convert_on(std::move(lanes), {&top}, base, std::move(copy));
  co_await base.flush();
  co_return stats;
}

io::task<ConvertStats> commit(io::Lanes& lanes, block::Device& top, block::Device& base,
                              CommitOptions options) {
  return commit_on(all_lanes(lanes), top, base, std::move(options));
}

}  // namespace cofre::job

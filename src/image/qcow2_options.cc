#include "image/qcow2_options.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"

namespace cofre::image {
namespace {

constexpr std::array<std::string_view, 4> kOverlapTemplates = {"none", "constant", "cached", "all"};
constexpr std::array<const char*, 9> kOverlapParts = {"main-header",    "active-l1",      "active-l2",
                                                      "refcount-block", "refcount-table", "snapshot-table",
                                                      "inactive-l1",    "inactive-l2",    "bitmap-directory"};

void take_overlap_checks(Options& options) {
  const auto plain = options.take("overlap-check");
  Options nested = options.take_prefix("overlap-check");
  const auto by_template = nested.take("template");
  if (plain && by_template && *plain != *by_template)
    fail(ErrorKind::kInvalidArgument,
         "conflicting values for overlap-check ('{}') and overlap-check.template ('{}')", *plain,
         *by_template);
  const std::string wanted = plain.value_or(by_template.value_or("cached"));
  if (std::ranges::find(kOverlapTemplates, wanted) == kOverlapTemplates.end())
    fail(ErrorKind::kInvalidArgument, "overlap-check is none, constant, cached or all, not '{}'", wanted);
  for (const char* const part : kOverlapParts) nested.take_bool(part);
  nested.finish("overlap-check");
}

void take_cache_sizes(Options& options, Qcow2Settings& into) {
  const auto both = options.take_size("cache-size");
  const auto l2 = options.take_size("l2-cache-size");
  const auto refcounts = options.take_size("refcount-cache-size");
  if (both && l2 && refcounts)
    fail(ErrorKind::kInvalidArgument,
         "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
  if (both && l2 && *l2 > *both) fail(ErrorKind::kInvalidArgument, "l2-cache-size may not exceed cache-size");
  if (both && refcounts && *refcounts > *both)
    fail(ErrorKind::kInvalidArgument, "refcount-cache-size may not exceed cache-size");
  into.l2_cache_bytes = l2.value_or(0);
  into.refcount_cache_bytes = refcounts.value_or(0);
  if (both && !l2) into.l2_cache_bytes = refcounts ? *both - *refcounts : *both - *both / 5;
  if (both && !refcounts) into.refcount_cache_bytes = *both - into.l2_cache_bytes;
}

}  // namespace

Qcow2Settings take_qcow2_settings(Options& options) {
  Qcow2Settings settings;
  settings.lazy_refcounts = options.take_bool("lazy-refcounts");
  settings.pass_discard_request = options.take_bool("pass-discard-request");
  settings.pass_discard_snapshot = options.take_bool("pass-discard-snapshot").value_or(true);
  settings.pass_discard_other = options.take_bool("pass-discard-other").value_or(false);
  take_overlap_checks(options);
  take_cache_sizes(options, settings);
  if (const auto bytes = options.take_size("l2-cache-entry-size")) {
    settings.l2_cache_entry_bytes = *bytes;
    if (!std::has_single_bit(*bytes) || *bytes < 512)
      fail(ErrorKind::kInvalidArgument,
           "l2-cache-entry-size={}: a power of two between 512 and the cluster size is needed", *bytes);
  }
  if (const auto seconds = options.take_number("cache-clean-interval"); seconds && *seconds > UINT32_MAX)
    fail(ErrorKind::kInvalidArgument, "cache-clean-interval={} is too big", *seconds);
  return settings;
}

void check_qcow2_settings(const Qcow2Settings& settings, const qcow2::Header& header) {
  if (settings.l2_cache_entry_bytes > header.cluster_bytes())
    fail(ErrorKind::kInvalidArgument,
         "l2-cache-entry-size={}: a power of two between 512 and the cluster size ({}) is needed",
         settings.l2_cache_entry_bytes, header.cluster_bytes());
  if (settings.lazy_refcounts.value_or(false) && header.version < 3)
    fail(ErrorKind::kInvalidArgument, "lazy-refcounts needs a qcow2 image of version 3 (compat=1.1)");
}

}  // namespace cofre::image

#include "image/blkdebug_options.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <fstream>

#include "base/error.h"
#include "base/units.h"

namespace cofre::image {
namespace {

using layer::BlkdebugConfig;

// Events of QEMU that are steps of its own, which Cofre does not have: they are taken and never come.
constexpr std::array<std::string_view, 23> kForeignEvents = {"l1_grow_alloc_table",
                                                             "l1_grow_write_table",
                                                             "l1_grow_activate_table",
                                                             "l2_update_compressed",
                                                             "l2_alloc_cow_read",
                                                             "cow_read",
                                                             "vmstate_load",
                                                             "vmstate_save",
                                                             "cow_write",
                                                             "reftable_load",
                                                             "reftable_grow",
                                                             "refblock_update_part",
                                                             "refblock_alloc_hookup",
                                                             "refblock_alloc_write",
                                                             "refblock_alloc_write_blocks",
                                                             "refblock_alloc_write_table",
                                                             "refblock_alloc_switch_table",
                                                             "cluster_alloc_bytes",
                                                             "empty_image_prepare",
                                                             "l1_shrink_write_table",
                                                             "l1_shrink_free_l2_clusters",
                                                             "cor_write",
                                                             "cluster_alloc_space"};

constexpr std::array<std::string_view, 6> kRequestNames = {"read",    "write", "write-zeroes",
                                                           "discard", "flush", "block-status"};

std::optional<block::Event> take_event(Options& rule, const std::string& what) {
  const std::optional<std::string> name = rule.take("event");
  if (!name) fail(ErrorKind::kInvalidArgument, "blkdebug: {} needs event=NAME", what);
  if (!is_blkdebug_event(*name))
    fail(ErrorKind::kInvalidArgument, "blkdebug: {}: there is no event '{}'", what, *name);
  return blkdebug_event(*name);
}

layer::InjectError parse_inject_error(Options rule, const std::string& what) {
  layer::InjectError error = {.event = take_event(rule, what)};
  error.state = rule.take_number("state").value_or(0);
  error.errno_value = static_cast<int>(std::min<uint64_t>(rule.take_number("errno").value_or(EIO), 4095));
  // QEMU's sector -1 is none.
  if (const auto sector = rule.take("sector"); sector && *sector != "-1") {
    rule.set("sector", *sector);
    error.sector = rule.take_number("sector");
    if (*error.sector > INT64_MAX / kSectorBytes)
      fail(ErrorKind::kInvalidArgument, "blkdebug: {}: sector {} is too large", what, *error.sector);
  }
  error.once = rule.take_bool("once").value_or(false);
  error.immediately = rule.take_bool("immediately").value_or(false);
  if (const auto kind = rule.take("iotype")) {
    const auto found = std::ranges::find(kRequestNames, std::string_view(*kind));
    if (found == kRequestNames.end())
      fail(ErrorKind::kInvalidArgument, "blkdebug: {}: there is no iotype '{}'", what, *kind);
    error.request_kind = static_cast<layer::BlkdebugRequest>(found - kRequestNames.begin());
  }
  rule.finish("blkdebug: " + what);
  return error;
}

layer::SetState parse_set_state(Options rule, const std::string& what) {
  layer::SetState change = {.event = take_event(rule, what)};
  change.state = rule.take_number("state").value_or(0);
  const auto new_state = rule.take_number("new_state");
  if (!new_state) fail(ErrorKind::kInvalidArgument, "blkdebug: {} needs new_state=N", what);
  change.new_state = *new_state;
  rule.finish("blkdebug: " + what);
  return change;
}

void add_rule(const std::string& section, Options rule, const std::string& what, BlkdebugConfig& into) {
  if (section == "inject-error") {
    into.errors.push_back(parse_inject_error(std::move(rule), what));
  } else if (section == "set-state") {
    into.states.push_back(parse_set_state(std::move(rule), what));
  } else {
    fail(ErrorKind::kInvalidArgument, "blkdebug: {}: a section is inject-error or set-state, not '{}'", what,
         section);
  }
}

std::string trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r") - first + 1));
}

// "key = "value"", as QEMU's configuration files have it.
void parse_line(const std::string& line, const std::string& where, Options& into) {
  const size_t equals = line.find('=');
  const std::string value =
      equals == std::string::npos ? "" : trimmed(std::string_view(line).substr(equals + 1));
  if (value.size() < 2 || !value.starts_with('"') || !value.ends_with('"'))
    fail(ErrorKind::kInvalidArgument, "blkdebug: {}: not understood: {}", where, line);
  into.set(trimmed(std::string_view(line).substr(0, equals)), value.substr(1, value.size() - 2));
}

void read_config(const std::string& path, BlkdebugConfig& into) {
  std::ifstream file(path);
  if (!file) fail_errno(errno, "blkdebug: cannot open the configuration '{}'", path);
  std::string section;
  Options rule;
  unsigned number = 0;
  for (std::string text; std::getline(file, text);) {
    const std::string line = trimmed(text);
    const std::string where = fmt::format("'{}' line {}", path, ++number);
    if (line.empty() || line.starts_with('#')) continue;
    if (line.starts_with('[') && line.ends_with(']')) {
      if (!section.empty()) add_rule(section, std::exchange(rule, Options()), where, into);
      section = line.substr(1, line.size() - 2);
    } else {
      parse_line(line, where, rule);
    }
  }
  if (!section.empty()) add_rule(section, std::move(rule), fmt::format("'{}'", path), into);
}

void take_rules(Options& options, const std::string& section, BlkdebugConfig& into) {
  for (unsigned i = 0; options.has_prefix(fmt::format("{}.{}", section, i)); ++i) {
    const std::string prefix = fmt::format("{}.{}", section, i);
    add_rule(section, options.take_prefix(prefix), prefix, into);
  }
}

// A power of two, and so small that it can be a request's alignment.
uint32_t take_alignment(Options& options, const std::string& key, uint64_t largest) {
  const auto bytes = options.take_size(key);
  if (!bytes || *bytes == 0) return 0;
  if (!std::has_single_bit(*bytes) || *bytes > largest)
    fail(ErrorKind::kInvalidArgument, "blkdebug: {}={}: a power of two up to {} is needed", key, *bytes,
         largest);
  return static_cast<uint32_t>(*bytes);
}

}  // namespace

std::optional<block::Event> blkdebug_event(std::string_view name) noexcept {
  const auto found = std::ranges::find(block::kEventNames, name);
  if (found == block::kEventNames.end()) return std::nullopt;
  return static_cast<block::Event>(found - block::kEventNames.begin());
}

bool is_blkdebug_event(std::string_view name) noexcept {
  return blkdebug_event(name) || std::ranges::find(kForeignEvents, name) != kForeignEvents.end();
}

BlkdebugConfig take_blkdebug_options(Options& options) {
  BlkdebugConfig config;
  if (const auto path = options.take("config")) read_config(*path, config);
  take_rules(options, "inject-error", config);
  take_rules(options, "set-state", config);
  config.alignment = take_alignment(options, "align", kMiB);
  config.discard_alignment = take_alignment(options, "opt-discard", kGiB);
  const uint64_t grain = std::max<uint64_t>(config.alignment, kSectorBytes);
  config.max_transfer = options.take_size("max-transfer").value_or(0);
  if (config.max_transfer % grain != 0)
    fail(ErrorKind::kInvalidArgument, "blkdebug: max-transfer={} is no multiple of {}", config.max_transfer,
         grain);
  // Limits that nobody above asks for.
  for (const char* key : {"opt-write-zero", "max-write-zero", "max-discard"})
    if (const auto bytes = options.take_size(key); bytes && *bytes % grain != 0)
      fail(ErrorKind::kInvalidArgument, "blkdebug: {}={} is no multiple of {}", key, *bytes, grain);
  return config;
}

}  // namespace cofre::image

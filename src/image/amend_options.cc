#include "image/amend_options.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"
#include "image/create_options.h"

namespace cofre::image {
namespace {

constexpr std::string_view kBool = "bool (on/off)";

constexpr OptionHelp kLuksOptions[] = {
    {"iter-time", "num", "Milliseconds that trying the new passphrase shall take (default 2000)", ""},
    {"keyslot", "num", "Number of the one keyslot to change, from 0 to 7", ""},
    {"new-secret", "str", "ID of the secret object with the passphrase to add", ""},
    {"old-secret", "str", "ID of the secret object whose keyslots are to be erased", ""},
    {"state", "str", "active: add a passphrase; inactive: erase keyslots", ""},
};

constexpr OptionHelp kQcow2Options[] = {
    {"backing_file", "str", "Name of the backing file: only the one it has (to change it: rebase)", ""},
    {"backing_fmt", "str", "Format of the backing file: only the one it has", ""},
    {"compat", "str", "Version of the format: v2 (0.10) or v3 (1.1)", ""},
    {"data_file", "str", "Name of the file of its own for the content", ""},
    {"data_file_raw", kBool, "The data file is readable as a raw image: can be given up, not gained", ""},
    {"encrypt.iter-time", "num", "As iter-time of format luks", ""},
    {"encrypt.keyslot", "num", "As keyslot of format luks", ""},
    {"encrypt.new-secret", "str", "As new-secret of format luks", ""},
    {"encrypt.old-secret", "str", "As old-secret of format luks", ""},
    {"encrypt.state", "str", "As state of format luks", ""},
    {"lazy_refcounts", kBool, "Write reference counts late", ""},
    {"refcount_bits", "num", "Bits of a reference count: 1, 2, 4, ... 64", ""},
    {"size", "size", "Size of the disk", ""},
};

std::span<const OptionHelp> amend_options(Format format) noexcept {
  if (format == Format::kQcow2) return kQcow2Options;
  if (format == Format::kLuks) return kLuksOptions;
  return {};
}

bool is_in(std::span<const OptionHelp> options, std::string_view name) {
  return std::ranges::any_of(options, [name](const OptionHelp& option) { return option.name == name; });
}

void refuse_others(Format format, const Options& options) {
  for (const auto& [name, value] : options.values()) {
    if (!is_in(amend_options(format), name) && is_in(create_options(format), name))
      fail(ErrorKind::kInvalidArgument,
           "option '{}' is for new images only; -o help lists what can be changed", name);
  }
}

std::optional<KeyslotSettings> take_keyslot(Options& options, std::string_view prefix) {
  const auto name = [prefix](std::string_view option) { return fmt::format("{}{}", prefix, option); };
  KeyslotSettings settings;
  const std::optional<std::string> state = options.take(name("state"));
  if (const auto number = options.take_number(name("keyslot")))
    settings.keyslot = static_cast<int64_t>(std::min<uint64_t>(*number, std::numeric_limits<int64_t>::max()));
  settings.new_secret = options.take(name("new-secret"));
  settings.old_secret = options.take(name("old-secret"));
  settings.iter_time = take_iter_time(options, name("iter-time"));
  const bool any = settings.keyslot || settings.new_secret || settings.old_secret || settings.iter_time;
  if (!state && !any) return std::nullopt;
  if (!state)
    fail(ErrorKind::kInvalidArgument, "{0} is missing: {0}=active adds a passphrase, {0}=inactive erases one",
         name("state"));
  if (*state != "active" && *state != "inactive")
    fail(ErrorKind::kInvalidArgument, "{}={}: there are active and inactive", name("state"), *state);
  settings.activate = *state == "active";
  return settings;
}

std::optional<uint32_t> take_refcount_order(Options& options) {
  const std::optional<uint64_t> bits = options.take_number("refcount_bits");
  if (!bits) return std::nullopt;
  if (!std::has_single_bit(*bits) || *bits > 64)
    fail(ErrorKind::kInvalidArgument, "refcount_bits={}: must be 1, 2, 4, 8, 16, 32 or 64", *bits);
  return static_cast<uint32_t>(std::countr_zero(*bits));
}

void take_qcow2(Options& options, AmendSettings& settings) {
  settings.keyslot = take_keyslot(options, "encrypt.");
  settings.version = take_version(options);
  settings.size_bytes = options.take_size("size");
  settings.lazy_refcounts = options.take_bool("lazy_refcounts");
  settings.refcount_order = take_refcount_order(options);
  settings.data_file = options.take("data_file");
  settings.data_file_raw = options.take_bool("data_file_raw");
  settings.backing_file = options.take("backing_file");
  settings.backing_format = options.take("backing_fmt");
}

}  // namespace

void require_amendable(Format format) {
  if (amend_options(format).empty())
    fail(ErrorKind::kUnsupported, "images of format '{}' have no options that could be changed",
         format_name(format));
}

AmendSettings parse_amend_options(Format format, Options options) {
  require_amendable(format);
  refuse_others(format, options);
  AmendSettings settings;
  if (format == Format::kLuks) settings.keyslot = take_keyslot(options, "");
  if (format == Format::kQcow2) take_qcow2(options, settings);
  options.finish(fmt::format("amend of format {}", format_name(format)));
  if (format == Format::kLuks && !settings.keyslot)
    fail(ErrorKind::kInvalidArgument, "no option was given: -o help lists what can be changed");
  return settings;
}

std::string amend_options_help(Format format) {
  const std::string text = option_lines(amend_options(format));
  return text.empty() ? text : fmt::format("Amend options for '{}':\n{}", format_name(format), text);
}

}  // namespace cofre::image

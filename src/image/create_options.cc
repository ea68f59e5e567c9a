#include "image/create_options.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"
#include "image/size.h"

namespace cofre::image {
namespace {

// As it would have to be written in a list of options: a comma in it is two.
std::string with_commas_doubled(const std::string& value) {
  std::string text;
  for (const char c : value) text.append(c == ',' ? 2 : 1, c);
  return text;
}

constexpr std::string_view kBool = "bool (on/off)";

// What the file of any image takes.
constexpr OptionHelp kNoCow = {"nocow", kBool, "No copy-on-write of the file (Btrfs)", "", true};
constexpr OptionHelp kFilePreallocation = {"preallocation", "str", "Space taken at once: off, falloc, full",
                                           "", true};
constexpr OptionHelp kExtentSize = {"extent_size_hint", "size",
                                    "The file grows in extents of this size (XFS; default 1M); 0: no hint",
                                    "", true};

constexpr OptionHelp kRawOptions[] = {
    {"size", "size", "Size of the disk", ""},
    kNoCow,
    kFilePreallocation,
    kExtentSize,
};

constexpr OptionHelp kLuksOptions[] = {
    {"size", "size", "Size of the disk", ""},
    {"key-secret", "str", "ID of the secret object that holds the passphrase", ""},
    {"cipher-alg", "str", "Cipher: aes-128, aes-192, aes-256 (default), serpent-*, twofish-*, cast5-128, sm4",
     ""},
    {"cipher-mode", "str", "Mode: xts (default), cbc, ctr, ecb", ""},
    {"ivgen-alg", "str", "IV generator: plain64 (default), plain, essiv", ""},
    {"ivgen-hash-alg", "str", "Hash of the essiv generator", ""},
    {"hash-alg", "str", "Hash of key derivation: sha256 (default), sha1, sha224, sha384, sha512, ripemd160",
     ""},
    {"iter-time", "num", "Milliseconds that trying one passphrase shall take (default 2000)", ""},
    {"detached-header", kBool, "Make the header only: what it encrypts is in another file", ""},
    kNoCow,
    kFilePreallocation,
    kExtentSize,
};

constexpr OptionHelp kQcow2Options[] = {
    {"encryption", kBool, "Encrypt with the legacy format 'aes': use encrypt.format=luks instead", ""},
    {"encrypt.format", "str", "Encrypt the image: 'luks', or the legacy 'aes'", ""},
    {"encrypt.key-secret", "str", "ID of the secret object that holds the passphrase", ""},
    {"encrypt.cipher-alg", "str", "As cipher-alg of format luks", ""},
    {"encrypt.cipher-mode", "str", "As cipher-mode of format luks", ""},
    {"encrypt.ivgen-alg", "str", "As ivgen-alg of format luks", ""},
    {"encrypt.ivgen-hash-alg", "str", "As ivgen-hash-alg of format luks", ""},
    {"encrypt.hash-alg", "str", "As hash-alg of format luks", ""},
    {"encrypt.iter-time", "num", "As iter-time of format luks", ""},
    {"cluster_size", "size", "Bytes of a cluster: a power of two from 512 to 2M", "65536"},
    {"extended_l2", kBool, "Divide each cluster in 32 subclusters", "off"},
    {"preallocation", "str", "Space taken at once: off, metadata, falloc, full", ""},
    {"compression_type", "str", "Of compressed clusters: zlib, zstd", "zlib"},
    {"size", "size", "Size of the disk", ""},
    {"compat", "str", "Version of the format: v2 (0.10) or v3 (1.1, default)", ""},
    {"backing_file", "str", "Name of the backing file", ""},
    {"backing_fmt", "str", "Format of the backing file", ""},
    {"data_file", "str", "Name of a file of its own for the content", ""},
    {"data_file_raw", kBool, "Keep the data file readable as a raw image", ""},
    {"lazy_refcounts", kBool, "Write reference counts late", "off"},
    {"refcount_bits", "num", "Bits of a reference count: 1, 2, 4, ... 64", "16"},
    kNoCow,
    kExtentSize,
};

qcow2::Preallocation take_preallocation(Format format, Options& options) {
  const std::string mode = options.take("preallocation").value_or("off");
  if (mode == "off") return qcow2::Preallocation::kOff;
  if (mode == "metadata" && format == Format::kQcow2) return qcow2::Preallocation::kMetadata;
  // A container's metadata is its header, which is always there.
  if (mode == "metadata" && format == Format::kLuks) return qcow2::Preallocation::kOff;
  if (mode == "falloc") return qcow2::Preallocation::kFalloc;
  if (mode == "full") return qcow2::Preallocation::kFull;
  fail(ErrorKind::kInvalidArgument, "preallocation={}: format {} has {}", mode, format_name(format),
       format == Format::kRaw ? "off, falloc and full" : "off, metadata, falloc and full");
}

storage::FileHints take_hints(Options& options) {
  storage::FileHints hints;
  hints.no_copy_on_write = options.take_bool("nocow").value_or(false);
  const uint64_t extent = options.take_size("extent_size_hint").value_or(kMiB);
  if (extent > UINT32_MAX)
    fail(ErrorKind::kInvalidArgument, "Extent size hint is too large: extent_size_hint={}", extent);
  hints.extent_size_bytes = static_cast<uint32_t>(extent);
  return hints;
}

luks::Luks1CreateOptions take_luks(Options& options, std::string_view prefix) {
  const auto take = [&](std::string_view name) { return options.take(fmt::format("{}{}", prefix, name)); };
  const auto cipher_alg = take("cipher-alg");
  const auto cipher_mode = take("cipher-mode");
  const auto ivgen_alg = take("ivgen-alg");
  const auto ivgen_hash_alg = take("ivgen-hash-alg");
  const auto hash_alg = take("hash-alg");
  luks::Luks1CreateOptions luks = luks::parse_luks1_options({.cipher_alg = cipher_alg,
                                                             .cipher_mode = cipher_mode,
                                                             .ivgen_alg = ivgen_alg,
                                                             .ivgen_hash_alg = ivgen_hash_alg,
                                                             .hash_alg = hash_alg});
  if (const auto iter_time = take_iter_time(options, fmt::format("{}iter-time", prefix)))
    luks.iter_time = *iter_time;
  return luks;
}

qcow2::CryptMethod take_crypt_method(Options& options, CreateSettings& settings) {
  const std::optional<bool> legacy = options.take_bool("encryption");
  const std::optional<std::string> format = options.take("encrypt.format");
  if (legacy && format)
    fail(ErrorKind::kInvalidArgument,
         "encryption= and encrypt.format= exclude each other: use encrypt.format=luks");
  settings.legacy_encryption = legacy.value_or(false);
  if (settings.legacy_encryption) return qcow2::CryptMethod::kAes;
  if (!format) return qcow2::CryptMethod::kNone;
  if (*format == "luks") return qcow2::CryptMethod::kLuks;
  if (*format == "aes" || *format == "qcow") return qcow2::CryptMethod::kAes;
  fail(ErrorKind::kInvalidArgument, "encrypt.format={}: there are luks, and the legacy aes", *format);
}

void take_encryption(Options& options, CreateSettings& settings) {
  settings.qcow2.encryption = take_crypt_method(options, settings);
  settings.key_secret = options.take("encrypt.key-secret");
  if (settings.qcow2.encryption == qcow2::CryptMethod::kNone && settings.key_secret)
    fail(ErrorKind::kInvalidArgument,
         "encrypt.key-secret is given, but no encryption: add encrypt.format=luks");
  if (settings.qcow2.encryption == qcow2::CryptMethod::kLuks) {
    settings.qcow2.luks = take_luks(options, "encrypt.");
    return;
  }
  for (const OptionHelp& option : kQcow2Options) {
    if (option.name.starts_with("encrypt.") && options.has(option.name))
      fail(ErrorKind::kInvalidArgument, "{} needs encrypt.format=luks", option.name);
  }
}

uint32_t take_power_of_two(Options& options, std::string_view key, uint64_t standard, uint64_t least,
                           uint64_t most, bool is_size) {
  const uint64_t value = (is_size ? options.take_size(key) : options.take_number(key)).value_or(standard);
  if (!std::has_single_bit(value) || value < least || value > most)
    fail(ErrorKind::kInvalidArgument, "{}={}: must be a power of two between {} and {}", key, value, least,
         most);
  return static_cast<uint32_t>(std::countr_zero(value));
}

qcow2::CompressionType take_compression(Options& options) {
  const std::string type = options.take("compression_type").value_or("zlib");
  if (type == "zlib") return qcow2::CompressionType::kDeflate;
  if (type == "zstd") return qcow2::CompressionType::kZstd;
  fail(ErrorKind::kInvalidArgument, "compression_type={}: there are zlib and zstd", type);
}

std::optional<std::string> nonempty(std::optional<std::string> text) {
  return text && !text->empty() ? text : std::nullopt;
}

void take_qcow2(Options& options, CreateSettings& settings) {
  qcow2::CreateOptions& qcow2 = settings.qcow2;
  take_encryption(options, settings);
  qcow2.version = take_version(options).value_or(3);
  qcow2.cluster_bits = take_power_of_two(options, "cluster_size", 65536, 512, 2 * kMiB, true);
  qcow2.refcount_order = take_power_of_two(options, "refcount_bits", 16, 1, 64, false);
  qcow2.lazy_refcounts = options.take_bool("lazy_refcounts").value_or(false);
  qcow2.extended_l2 = options.take_bool("extended_l2").value_or(false);
  qcow2.compression_type = take_compression(options);
  qcow2.backing_file = nonempty(options.take("backing_file"));
  qcow2.backing_format = nonempty(options.take("backing_fmt"));
  qcow2.data_file = nonempty(options.take("data_file"));
  qcow2.data_file_raw = options.take_bool("data_file_raw").value_or(false);
  qcow2.preallocation = settings.preallocation;
}

// Booleans as on and off, sizes in bytes, the rest as given.
std::string shown_value(const OptionHelp& option, const std::string& value) {
  Options one;
  one.set("value", value);
  if (option.kind == kBool) return *one.take_bool("value") ? "on" : "off";
  if (option.kind == "size") return std::to_string(*one.take_size("value"));
  return value;
}

}  // namespace

std::span<const OptionHelp> create_options(Format format) noexcept {
  switch (format) {
    case Format::kQcow2:
      return kQcow2Options;
    case Format::kLuks:
      return kLuksOptions;
    default:
      break;
  }
  return kRawOptions;
}

std::string create_options_help(Format format, bool with_file) {
  require_writable_format(format);
  std::vector<OptionHelp> options;
  std::ranges::copy_if(create_options(format), std::back_inserter(options),
                       [with_file](const OptionHelp& option) { return with_file || !option.of_file; });
  std::sort(options.begin(), options.end(),
            [](const OptionHelp& a, const OptionHelp& b) { return a.name < b.name; });
  if (with_file) return fmt::format("Supported options:\n{}", option_lines(options));
  return fmt::format(
      "Supported {} options:\n{}\n"
      "The protocol level may support further options.\n"
      "Specify the target filename to include those options.\n",
      format_name(format), option_lines(options));
}

std::string option_lines(std::span<const OptionHelp> options) {
  std::string text;
  for (const OptionHelp& option : options)
    text += fmt::format("  {:<22} - {}\n", fmt::format("{}=<{}>", option.name, option.kind), option.text);
  return text;
}

std::optional<std::chrono::milliseconds> take_iter_time(Options& options, const std::string& name) {
  constexpr uint64_t kMaxIterTimeMs = 3'600'000;
  const std::optional<uint64_t> milliseconds = options.take_number(name);
  if (!milliseconds) return std::nullopt;
  if (*milliseconds > kMaxIterTimeMs)
    fail(ErrorKind::kInvalidArgument, "{}={}: more than {} milliseconds make no sense", name, *milliseconds,
         kMaxIterTimeMs);
  return std::chrono::milliseconds(*milliseconds);
}

std::optional<uint32_t> take_version(Options& options) {
  const std::optional<std::string> compat = options.take("compat");
  if (!compat) return std::nullopt;
  if (*compat == "1.1" || *compat == "v3") return 3;
  if (*compat == "0.10" || *compat == "v2") return 2;
  fail(ErrorKind::kInvalidArgument, "compat={}: there are 0.10 (v2) and 1.1 (v3)", *compat);
}

CreateSettings parse_create_options(Format format, Options options) {
  CreateSettings settings;
  settings.size_bytes = options.take_size("size");
  settings.preallocation = take_preallocation(format, options);
  settings.hints = take_hints(options);
  if (format == Format::kQcow2) take_qcow2(options, settings);
  if (format == Format::kLuks) {
    settings.key_secret = options.take("key-secret");
    settings.luks = take_luks(options, "");
    settings.luks.detached = options.take_bool("detached-header").value_or(false);
  }
  if (format == Format::kRaw && options.has("backing_file"))
    fail(ErrorKind::kInvalidArgument, "format raw has no backing files");
  options.finish(fmt::format("format {}", format_name(format)));
  return settings;
}

std::string options_summary(Format format, const Options& given, uint64_t size_bytes) {
  std::string text = fmt::format("fmt={}", format_name(format));
  for (const OptionHelp& option : create_options(format)) {
    const auto found = given.values().find(option.name);
    std::string value(option.shown_default);
    if (found != given.values().end()) value = shown_value(option, found->second);
    if (option.name == "size") value = std::to_string(size_bytes);
    if (!value.empty()) text += fmt::format(" {}={}", option.name, with_commas_doubled(value));
  }
  return text;
}

}  // namespace cofre::image

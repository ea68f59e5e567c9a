#include "format/foreign/vmdk_descriptor.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace cofre::foreign {
namespace {

constexpr size_t kProbeBytes = 512;
constexpr size_t kMostExtents = 2048;
constexpr uint32_t kNoParent = 0xffffffff;
constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

std::string_view take_word(std::string_view& line) {
  line = trimmed(line);
  const std::string_view word = line.substr(0, line.find_first_of(kBlanks));
  line = trimmed(line.substr(word.size()));
  return word;
}

template <std::unsigned_integral T>
std::optional<T> number(std::string_view text, int base) {
  T value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string_view unquoted(std::string_view value) {
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
    return value.substr(1, value.size() - 2);
  return value;
}

// The file's name in quotes; what follows them stays in `rest`.
std::string take_name(std::string_view& rest) {
  if (!rest.starts_with('"')) return {};
  const size_t end = rest.find('"', 1);
  if (end == std::string_view::npos) return {};
  const std::string name(rest.substr(1, end - 1));
  rest = trimmed(rest.substr(end + 1));
  return name;
}

[[noreturn]] void refuse_line(std::string_view line, const std::string& image) {
  fail(ErrorKind::kCorrupt, "'{}': the descriptor has an extent that cannot be: {}", image, line);
}

VmdkExtentLine parse_extent(std::string_view access, std::string_view rest, std::string_view line,
                            const std::string& image) {
  if (access == "NOACCESS")
    fail(ErrorKind::kUnsupported, "'{}': an extent of the image may not be accessed: {}", image, line);
  VmdkExtentLine extent;
  const std::optional<uint64_t> sectors = number<uint64_t>(take_word(rest), 10);
  extent.type = take_word(rest);
  extent.name = take_name(rest);
  if (!sectors || *sectors == 0 || *sectors > INT64_MAX / kSectorBytes) refuse_line(line, image);
  extent.sectors = *sectors;
  if (extent.type == "ZERO") return extent;
  if (extent.name.empty()) refuse_line(line, image);
  if (extent.type == "FLAT" || !rest.empty()) {
    const std::optional<uint64_t> offset = number<uint64_t>(take_word(rest), 10);
    if (!offset || *offset > INT64_MAX / kSectorBytes) refuse_line(line, image);
    extent.offset_sectors = *offset;
  }
  return extent;
}

struct Found {
  std::optional<uint32_t> cid;
  std::optional<uint32_t> parent_cid;
  std::string parent_name;
};

void take_setting(std::string_view line, VmdkDescriptor& descriptor, Found& found) {
  const size_t equals = line.find('=');
  if (equals == std::string_view::npos) return;
  const std::string_view key = trimmed(line.substr(0, equals));
  const std::string_view value = unquoted(trimmed(line.substr(equals + 1)));
  if (key == "CID") found.cid = number<uint32_t>(value, 16);
  if (key == "parentCID") found.parent_cid = number<uint32_t>(value, 16);
  if (key == "createType") descriptor.create_type = value;
  if (key == "parentFileNameHint") found.parent_name = value;
}

void take_line_of(std::string_view line, VmdkDescriptor& descriptor, Found& found, const std::string& image) {
  std::string_view rest = line;
  const std::string_view word = take_word(rest);
  if (word != "RW" && word != "RDONLY" && word != "NOACCESS") return take_setting(line, descriptor, found);
  if (descriptor.extents.size() >= kMostExtents)
    fail(ErrorKind::kLimit, "'{}' is made of more than {} extents", image, kMostExtents);
  descriptor.extents.push_back(parse_extent(word, rest, line, image));
}

}  // namespace

bool is_vmdk_descriptor(ConstBytes start) noexcept {
  constexpr std::array<std::string_view, 3> kVersions = {"version=1", "version=2", "version=3"};
  std::string_view text(reinterpret_cast<const char*>(start.data()), std::min(start.size(), kProbeBytes));
  while (!text.empty()) {
    const bool ends = text.find('\n') != std::string_view::npos;
    std::string_view line = take_line(text);
    if (line.starts_with('#')) continue;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(' ') == std::string_view::npos) continue;
    return ends && std::ranges::find(kVersions, line) != kVersions.end();
  }
  return false;
}

VmdkDescriptor parse_vmdk_descriptor(std::string_view text, const std::string& image) {
  text = text.substr(0, text.find('\0'));
  VmdkDescriptor descriptor;
  Found found;
  while (!text.empty()) {
    const std::string_view line = trimmed(take_line(text));
    if (!line.empty() && line.front() != '#') take_line_of(line, descriptor, found, image);
  }
  if (!found.cid || descriptor.create_type.empty())
    fail(
        ErrorKind::kCorrupt,
        "'{}' has no VMDK descriptor with a CID and a createType. If it is an extent of a larger image, name "
        "that image's descriptor file instead",
        image);
  descriptor.cid = *found.cid;
  descriptor.parent_cid = found.parent_cid.value_or(kNoParent);
  if (descriptor.parent_cid != kNoParent || !found.parent_name.empty())
    fail(ErrorKind::kUnsupported,
         "'{}' is a snapshot that needs its parent '{}': merge them first (vmware-vdiskmanager -r, or "
         "qemu-img convert)",
         image, found.parent_name);
  return descriptor;
}

void check_vmdk_extent_name(const std::string& name, const std::string& image) {
  if (!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
      name.find('\\') == std::string::npos && name.find('\0') == std::string::npos)
    return;
  fail(ErrorKind::kUnsupported,
       "'{}' wants to read '{}': the extents of an image must lie in its own folder, under plain names",
       image, name);
}

}  // namespace cofre::foreign

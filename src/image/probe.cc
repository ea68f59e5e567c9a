#include "image/probe.h"

#include <algorithm>
#include <array>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "format/foreign/vdi.h"
#include "format/foreign/vhdx.h"
#include "format/foreign/vmdk.h"
#include "format/foreign/vpc.h"
#include "format/luks/luks1_header.h"
#include "format/qcow2/header.h"

namespace cofre::image {
namespace {

constexpr std::array<std::string_view, 7> kFormatNames = {"raw", "qcow2", "luks", "vmdk",
                                                          "vdi", "vhdx",  "vpc"};
constexpr uint64_t kProbeBytes = 4096;

}  // namespace

std::string_view format_name(Format format) noexcept {
  return kFormatNames[static_cast<size_t>(format)];
}

std::optional<Format> find_format(std::string_view name) noexcept {
  const auto found = std::find(kFormatNames.begin(), kFormatNames.end(), name);
  if (found == kFormatNames.end()) return std::nullopt;
  return static_cast<Format>(found - kFormatNames.begin());
}

Format parse_format(std::string_view name) {
  if (const std::optional<Format> format = find_format(name)) return *format;
  fail(ErrorKind::kInvalidArgument,
       "there is no format '{}': use raw, qcow2 or luks; vmdk, vdi, vhdx and vpc are read", name);
}

bool is_writable_format(Format format) noexcept {
  return format == Format::kRaw || format == Format::kQcow2 || format == Format::kLuks;
}

void require_writable_format(Format format) {
  if (is_writable_format(format)) return;
  fail(ErrorKind::kUnsupported, "Cofre only reads images of format {}: make a qcow2, luks or raw one",
       format_name(format));
}

io::task<Format> probe_format(block::Device& file) {
  AlignedBuffer start(kProbeBytes);
  const uint64_t there = std::min(kProbeBytes, file.length_bytes());
  if (there < 8) co_return Format::kRaw;
  const Bytes bytes = start.bytes().first(there);
  co_await file.read(0, bytes);
  if (qcow2::has_magic(bytes)) co_return Format::kQcow2;
  if (luks::is_luks1(bytes)) co_return Format::kLuks;
  if (foreign::is_vmdk(bytes)) co_return Format::kVmdk;
  if (foreign::is_vdi(bytes)) co_return Format::kVdi;
  if (foreign::is_vhdx(bytes)) co_return Format::kVhdx;
  if (foreign::is_vpc(bytes)) co_return Format::kVpc;
  co_return Format::kRaw;
}

}  // namespace cofre::image

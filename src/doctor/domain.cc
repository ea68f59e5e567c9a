#include "doctor/domain.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <pugixml.hpp>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/owned_fd.h"
#include "image/open.h"
#include "io/lanes.h"

namespace cofre::doctor {
namespace {

std::string attribute(const pugi::xml_node& node, const char* name) {
  return node.attribute(name).as_string();
}

// What names an image in <source>, most telling first.
void read_source(const pugi::xml_node& source, DomainDisk& disk) {
  for (const char* name : {"file", "dev"}) {
    if (!source.attribute(name)) continue;
    disk.source = attribute(source, name);
    disk.source_is_path = true;
    return;
  }
  if (source.attribute("protocol"))
    disk.source = attribute(source, "protocol") + ":" + attribute(source, "name");
  else if (source.attribute("volume"))
    disk.source = "volume " + attribute(source, "volume") + " of pool " + attribute(source, "pool");
}

DomainDisk read_disk(const pugi::xml_node& node) {
  DomainDisk disk;
  const pugi::xml_node driver = node.child("driver");
  const pugi::xml_node source = node.child("source");
  disk.target = attribute(node.child("target"), "dev");
  disk.bus = attribute(node.child("target"), "bus");
  disk.driver_type = attribute(driver, "type");
  disk.cache = attribute(driver, "cache");
  disk.io = attribute(driver, "io");
  disk.discard = attribute(driver, "discard");
  disk.has_iothread = driver.attribute("iothread") || driver.child("iothreads");
  read_source(source, disk);
  // libvirt reads it in either place and writes it within <source>.
  const pugi::xml_node inside = source.child("encryption");
  const pugi::xml_node encryption = inside ? inside : node.child("encryption");
  if (encryption) {
    disk.encryption_format = attribute(encryption, "format");
    disk.encryption_engine = attribute(encryption, "engine");
  }
  return disk;
}

GuestCpu read_cpu(const pugi::xml_node& node) {
  GuestCpu cpu;
  if (!node) return cpu;
  cpu.model = node.child("model").text().as_string();
  cpu.mode = attribute(node, "mode");
  if (cpu.mode.empty() && (!cpu.model.empty() || node.attribute("match"))) cpu.mode = "custom";
  for (const pugi::xml_node& feature : node.children("feature")) {
    const std::string policy = attribute(feature, "policy");
    cpu.policies[attribute(feature, "name")] = policy.empty() ? "require" : policy;
  }
  return cpu;
}

Domain read_root(const pugi::xml_node& root) {
  Domain domain;
  domain.name = root.child("name").text().as_string();
  domain.type = attribute(root, "type");
  domain.arch = attribute(root.child("os").child("type"), "arch");
  domain.cpu = read_cpu(root.child("cpu"));
  for (const pugi::xml_node& node : root.child("devices").children("disk")) {
    const std::string device = attribute(node, "device");
    if (device.empty() || device == "disk" || device == "lun") domain.disks.push_back(read_disk(node));
  }
  return domain;
}

void refuse_document_type(const pugi::xml_document& document, const std::string& where) {
  for (const pugi::xml_node& node : document.children())
    if (node.type() == pugi::node_doctype)
      fail(ErrorKind::kInvalidArgument,
           "'{}' declares a document type, which may hold entities: libvirt writes none, so this is refused",
           where);
}

std::string read_bounded(const std::string& path) {
  const OwnedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (file.get() < 0) fail_errno(errno, "cannot open the domain XML '{}'", path);
  std::string text;
  std::array<char, 65536> piece;
  for (;;) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(errno, "cannot read the domain XML '{}'", path);
    if (got == 0) return text;
    text.append(piece.data(), static_cast<size_t>(got));
    if (text.size() > kMaxDomainXmlBytes)
      fail(ErrorKind::kLimit, "'{}' is larger than {} bytes: no domain XML", path, kMaxDomainXmlBytes);
  }
}

// The magic that LUKS1 and LUKS2 share.
bool is_luks(ConstBytes start) {
  constexpr std::array<std::byte, 6> kMagic = {std::byte{'L'}, std::byte{'U'},  std::byte{'K'},
                                               std::byte{'S'}, std::byte{0xba}, std::byte{0xbe}};
  return start.size() >= kMagic.size() && std::ranges::equal(start.first(kMagic.size()), kMagic);
}

// A function and not a lambda: its arguments live as long as it does.
io::task<DiskProbe> probe_image(image::ImageName name) {
  DiskProbe probe;
  image::OpenedImage opened = co_await image::open_image(
      std::move(name), {.force_share = true, .headers_only = true, .keys = image::Keys::kUnused});
  const qcow2::Image* const qcow2 = opened.top().qcow2;
  probe.encrypted = qcow2 != nullptr && qcow2->header().crypt_method != qcow2::CryptMethod::kNone;
  if (!probe.encrypted && opened.device->length_bytes() >= kSectorBytes) {
    AlignedBuffer sector(kSectorBytes);
    co_await opened.device->read(0, sector.bytes());
    probe.luks_at_start = is_luks(sector.bytes());
    probe.qcow2_at_start = qcow2::has_magic(sector.bytes());
  }
  co_await opened.close();
  probe.looked = true;
  co_return probe;
}

DiskProbe probe_disk(const DomainDisk& disk, io::Lanes& lanes) {
  if (!disk.source_is_path) return {.reason = "it is no file of this host"};
  // What libvirt takes a disk without a type for.
  const std::string type = disk.driver_type.empty() ? "raw" : disk.driver_type;
  const std::optional<image::Format> format = image::find_format(type);
  if (!format) return {.reason = "its format is " + type};
  try {
    return lanes.run(probe_image(image::image_name_of_file(disk.source, *format)));
  } catch (const Error& error) {
    return {.reason = error.what(), .missing = error.kind() == ErrorKind::kNotFound};
  }
}

}  // namespace

Domain parse_domain(const std::string& xml, const std::string& where) {
  if (xml.size() > kMaxDomainXmlBytes)
    fail(ErrorKind::kLimit, "'{}' is larger than {} bytes: no domain XML", where, kMaxDomainXmlBytes);
  pugi::xml_document document;
  const pugi::xml_parse_result result =
      document.load_buffer(xml.data(), xml.size(), pugi::parse_default | pugi::parse_doctype);
  refuse_document_type(document, where);
  if (!result)
    fail(ErrorKind::kInvalidArgument, "'{}' is no XML: {} at offset {}: give what virsh dumpxml prints",
         where, result.description(), result.offset);
  // A running domain's status file has it one level down.
  const pugi::xml_node status = document.child("domstatus").child("domain");
  const pugi::xml_node root = status ? status : document.child("domain");
  if (!root)
    fail(ErrorKind::kInvalidArgument, "'{}' holds no <domain>: give what virsh dumpxml prints", where);
  return read_root(root);
}

Domain read_domain(const std::string& path) {
  return parse_domain(read_bounded(path), path);
}

void probe_disks(Domain& domain) {
  io::Lanes lanes(1);
  for (DomainDisk& disk : domain.disks) disk.probe = probe_disk(disk, lanes);
}

}  // namespace cofre::doctor

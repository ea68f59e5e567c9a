// How a domain's disks are encrypted, and what is certain to be wrong with them.
#include <fmt/format.h>

#include "doctor/domain.h"

namespace cofre::doctor {
namespace {

bool is_luks_format(const DomainDisk& disk) {
  return disk.encryption_format && (*disk.encryption_format == "luks" || *disk.encryption_format == "luks2" ||
                                    *disk.encryption_format == "luks-any");
}

bool encrypted_by_qemu(const DomainDisk& disk) {
  return is_luks_format(disk) && disk.encryption_engine != "librbd";
}

// The encryption that the domain asks for against the one that the image has.
void judge_named_encryption(const DomainDisk& disk, Section& section) {
  const bool has_it = disk.probe.encrypted || disk.probe.luks_at_start;
  if (!is_luks_format(disk))
    section.attention(
        "disk-legacy-encryption",
        fmt::format("<encryption format='{}'>: QEMU's legacy encryption, which today's libvirt and "
                    "QEMU refuse for running guests",
                    *disk.encryption_format),
        "cofre convert -O qcow2 -o encrypt.format=luks, then <encryption format='luks'>", disk.target);
  else if (disk.probe.looked && !has_it)
    section.attention("disk-encryption-mismatch",
                      "the domain says LUKS, and the image is not encrypted: QEMU does not start with it",
                      "cofre convert -O qcow2 -o encrypt.format=luks, or remove <encryption>", disk.target);
  else
    section.ok("disk-encrypted",
               fmt::format("encrypted on this host by {} ({})",
                           disk.encryption_engine == "librbd" ? "librbd" : "QEMU", *disk.encryption_format),
               disk.target);
}

void judge_no_encryption(const DomainDisk& disk, Section& section) {
  if (disk.probe.encrypted)
    section.attention(
        "disk-encryption-mismatch",
        "the image is encrypted, and the domain names no secret for it: QEMU does not start with it",
        "<encryption format='luks'><secret type='passphrase' uuid='...'/></encryption> in <source>",
        disk.target);
  else if (disk.probe.luks_at_start)
    section.ok("disk-guest-luks", "the whole disk is a LUKS device, which the guest opens", disk.target);
  else
    section.note(
        "disk-plain",
        fmt::format("not encrypted by QEMU; whether the guest encrypts what it stores cannot be seen from "
                    "outside{}",
                    disk.probe.looked ? "" : fmt::format(" (not looked at: {})", disk.probe.reason)),
        {}, disk.target);
}

void note_missing(const DomainDisk& disk, Section& section) {
  section.attention(
      "disk-missing",
      fmt::format("the image is not there: {}: QEMU does not start without it", disk.probe.reason),
      "Correct <source>, or bring the image back; where the domain runs on another host, ask there",
      disk.target);
}

void note_driver_mismatch(const DomainDisk& disk, Section& section) {
  section.attention("disk-driver-mismatch",
                    fmt::format("the driver is type='{}', and the file is a qcow2 image: the guest sees the "
                                "image's tables, not its disk, and what it writes destroys them",
                                disk.driver_type.empty() ? "raw" : disk.driver_type),
                    "<driver name='qemu' type='qcow2'/>", disk.target);
}

void judge_encryption(const DomainDisk& disk, Section& section) {
  if (disk.probe.qcow2_at_start)
    note_driver_mismatch(disk, section);
  else if (disk.encryption_format)
    judge_named_encryption(disk, section);
  else if (!disk.probe.missing)
    judge_no_encryption(disk, section);
}

// QEMU's block options that follow from libvirt's words: certain, whatever the guest does.
void judge_driver(const DomainDisk& disk, Section& section) {
  const bool direct = disk.cache == "none" || disk.cache == "directsync";
  if (disk.cache == "unsafe")
    section.attention(
        "disk-cache-unsafe",
        "cache='unsafe': the guest's flushes are ignored, a crash of the host can destroy its file "
        "systems",
        "cache='none', or leave cache= out", disk.target);
  if (disk.cache == "writethrough" || disk.cache == "directsync")
    section.note("disk-cache-writethrough",
                 fmt::format("cache='{}': every write of the guest waits for the storage", disk.cache),
                 "cache='none' is as safe for guests that flush, as all of today do", disk.target);
  if (disk.io == "native" && !direct)
    section.attention("disk-io-native",
                      fmt::format("io='native' with cache='{}': QEMU refuses that",
                                  disk.cache.empty() ? "default" : disk.cache),
                      "cache='none' with io='native', or io='io_uring'", disk.target);
  if (disk.source_is_path && disk.driver_type == "qcow2" && disk.discard != "unmap")
    section.note(
        "disk-discard", "discard is not passed on: space that the guest frees stays in use in the image",
        "discard='unmap' in <driver> (it also shows in the file which parts are in use)", disk.target);
  if (encrypted_by_qemu(disk) && disk.bus == "virtio" && !disk.has_iothread)
    section.note(
        "disk-no-iothread",
        "no iothread: requests of this encrypted disk are served by QEMU's main thread, with everything "
        "else there",
        "<iothreads>1</iothreads> in the domain and iothread='1' in <driver>", disk.target);
}

Json disk_json(const DomainDisk& disk) {
  Json json = {{"target", disk.target}, {"source", disk.source}, {"driver-type", disk.driver_type}};
  if (disk.encryption_format) json["encryption"] = *disk.encryption_format;
  if (!disk.encryption_engine.empty()) json["engine"] = disk.encryption_engine;
  json["looked-at"] = disk.probe.looked;
  if (disk.probe.missing) json["missing"] = true;
  if (disk.probe.looked) {
    json["image-encrypted"] = disk.probe.encrypted;
    json["begins-with-luks"] = disk.probe.luks_at_start;
  }
  return json;
}

}  // namespace

void judge_disks(const Domain& domain, Section& section) {
  for (const DomainDisk& disk : domain.disks) {
    if (disk.probe.missing) note_missing(disk, section);
    judge_encryption(disk, section);
    judge_driver(disk, section);
  }
}

Json disks_json(const Domain& domain) {
  Json list = Json::array();
  for (const DomainDisk& disk : domain.disks) list.push_back(disk_json(disk));
  return list;
}

}  // namespace cofre::doctor

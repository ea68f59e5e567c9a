// A libvirt domain: the guest's processor and its disks, from the XML that `virsh dumpxml` prints (libvirt's
// "Domain XML format"; also the status files of /run/libvirt/qemu).
//
// The text is hostile. It is read by a parser that opens nothing and expands no entities; one with a document
// type, which libvirt never writes, is refused, and so is one of more than kMaxDomainXmlBytes. Any lane.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/cpu.h"
#include "doctor/finding.h"

namespace cofre::doctor {

inline constexpr size_t kMaxDomainXmlBytes = 4 * 1024 * 1024;

struct GuestCpu {
  std::string mode;   // "host-passthrough", "host-model", "maximum", "custom"; empty: the domain names none
  std::string model;  // of custom; empty: none named
  std::map<std::string, std::string>
      policies;  // of features: "require", "force", "disable", "forbid", "optional"
};

// How a disk's image really begins, where this process may look.
struct DiskProbe {
  bool looked = false;
  std::string reason = {};      // why not
  bool missing = false;         // there is no such file
  bool encrypted = false;       // qcow2 with a crypt method
  bool luks_at_start = false;   // the bytes that the driver shows begin with a LUKS header
  bool qcow2_at_start = false;  // and these with a qcow2 header: the driver is not the image's
};

struct DomainDisk {
  std::string target;  // "vda"
  std::string bus;     // "virtio"
  std::string source;  // a path, or words for what is none
  bool source_is_path = false;
  std::string driver_type;  // "qcow2", "raw"
  std::string cache;
  std::string io;
  std::string discard;
  bool has_iothread = false;
  std::optional<std::string> encryption_format;  // "luks"; nothing: no <encryption>
  std::string encryption_engine;                 // "qemu", "librbd"; empty: libvirt's default
  DiskProbe probe;
};

struct Domain {
  std::string name;
  std::string type;  // "kvm", "qemu"
  std::string arch;  // "x86_64"
  GuestCpu cpu;
  std::vector<DomainDisk> disks;  // those with device='disk' or 'lun'
};

// `where` is for messages. Throws Error kInvalidArgument for what is no domain XML, kLimit.
Domain parse_domain(const std::string& xml, const std::string& where);
// Also from a pipe: /dev/stdin. Throws Error.
Domain read_domain(const std::string& path);

// Looks at the images of disks that are files. What cannot be opened is a fact.
void probe_disks(Domain& domain);

// `host`: what this host's processor may use, which a guest with mode='host-passthrough' sees.
Section examine_domain(const Domain& domain, const crypto::CpuFeatures& host);

// The part that is about disks (disk_findings.cc).
void judge_disks(const Domain& domain, Section& section);
Json disks_json(const Domain& domain);

}  // namespace cofre::doctor

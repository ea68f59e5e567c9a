// libvirt domains: reading, what is refused, and every finding where it appears and where it does not.
#include "doctor/domain.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "doctor/cpu_models.h"
#include "doctor/ids.h"

namespace cofre::doctor {
namespace {

crypto::CpuFeatures capable_host() {
  crypto::CpuFeatures host;
  host.aes = host.avx2 = host.vaes = true;
  return host;
}

Domain domain_with_cpu(const std::string& cpu, const std::string& type = "kvm",
                       const std::string& arch = "x86_64") {
  return parse_domain(
      fmt::format("<domain type='{}'><name>web1</name><os><type arch='{}'>hvm</type></os>{}</domain>", type,
                  arch, cpu),
      "test");
}

Section with_cpu(const std::string& cpu) {
  return examine_domain(domain_with_cpu(cpu), capable_host());
}

DomainDisk disk(const std::string& driver, const std::string& source = "<source file='/images/a'/>") {
  const Domain domain = parse_domain(
      fmt::format(
          "<domain type='kvm'><name>web1</name><cpu mode='host-passthrough'/><devices><disk type='file'>"
          "<driver name='qemu' {}/>{}<target dev='vda' bus='virtio'/></disk></devices></domain>",
          driver, source),
      "test");
  return domain.disks.at(0);
}

Section with_disk(const DomainDisk& disk) {
  Domain domain;
  domain.disks = {disk};
  Section section{.name = "domain", .title = "Domain"};
  judge_disks(domain, section);
  return section;
}

DomainDisk luks_disk(const std::string& driver = "type='qcow2' discard='unmap' iothread='1'",
                     const std::string& engine = "") {
  return disk(driver, fmt::format("<source file='/images/a'><encryption format='luks' {}>"
                                  "<secret type='passphrase' uuid='c1f11a6d-8c5d-4a3e-ac7a-4e171c5e0d4a'/>"
                                  "</encryption></source>",
                                  engine));
}

TEST(GuestCpu, WhatTheHostHas) {
  for (const char* cpu : {"<cpu mode='host-passthrough'/>", "<cpu mode='host-model' check='partial'/>",
                          "<cpu mode='maximum'/>"}) {
    EXPECT_EQ(found(with_cpu(cpu), "guest-aes"), "ok") << cpu;
    EXPECT_EQ(found(with_cpu(cpu), "guest-no-vector-aes"), "") << cpu;
    EXPECT_EQ(found(examine_domain(domain_with_cpu(cpu), crypto::CpuFeatures{}), "guest-no-aes"), "attention")
        << cpu;
  }
}

TEST(GuestCpu, NoneNamedIsQemusDefault) {
  EXPECT_EQ(found(with_cpu(""), "guest-no-aes"), "attention");
  EXPECT_EQ(found(with_cpu("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>"), "guest-no-aes"),
            "attention");
}

TEST(GuestCpu, TheRemedyIsOneThatHelps) {
  const auto remedy = [](const Section& section) {
    const auto finding = std::ranges::find(section.findings, "guest-no-aes", &Finding::id);
    return finding != section.findings.end() ? finding->remedy : "";
  };
  EXPECT_NE(remedy(with_cpu("")).find("host-passthrough"), std::string::npos);
  EXPECT_EQ(remedy(with_cpu("<cpu mode='host-passthrough'><feature policy='disable' name='aes'/></cpu>")),
            "Remove <feature policy='disable' name='aes'/>");
  const Domain domain = domain_with_cpu("<cpu mode='host-passthrough'/>");
  EXPECT_NE(remedy(examine_domain(domain, crypto::CpuFeatures{})).find("This host has none"),
            std::string::npos);
}

TEST(GuestCpu, Models) {
  EXPECT_EQ(found(with_cpu("<cpu mode='custom' match='exact'><model fallback='forbid'>Penryn</model></cpu>"),
                  "guest-no-aes"),
            "attention");
  const Section haswell = with_cpu("<cpu match='exact'><model>Haswell-noTSX-IBRS</model></cpu>");
  EXPECT_EQ(found(haswell, "guest-aes"), "ok");
  EXPECT_EQ(found(haswell, "guest-no-vector-aes"), "note");
  EXPECT_EQ(haswell.facts["cpu"]["guest-sees"].dump(), R"({"aes":true,"avx2":true,"vaes":false})");
  const Section icelake = with_cpu("<cpu mode='custom'><model>Icelake-Server-v4</model></cpu>");
  EXPECT_EQ(found(icelake, "guest-no-vector-aes"), "");
  const Section unknown = with_cpu("<cpu mode='custom'><model>Zhaoxin-Next</model></cpu>");
  EXPECT_EQ(found(unknown, "guest-cpu-unknown"), "note");
  EXPECT_EQ(found(unknown, "guest-aes") + found(unknown, "guest-no-aes"), "");
}

TEST(GuestCpu, Policies) {
  const auto custom = [](const char* model, const char* policy) {
    return with_cpu(fmt::format("<cpu mode='custom'><model>{}</model><feature policy='{}' name='aes'/></cpu>",
                                model, policy));
  };
  EXPECT_EQ(found(custom("Westmere", "disable"), "guest-no-aes"), "attention");
  EXPECT_EQ(found(custom("Westmere", "forbid"), "guest-no-aes"), "attention");
  EXPECT_EQ(found(custom("kvm64", "require"), "guest-aes"), "ok");
  EXPECT_EQ(found(custom("kvm64", "force"), "guest-aes"), "ok");
  EXPECT_EQ(found(custom("kvm64", "optional"), "guest-aes"), "ok");
  EXPECT_EQ(found(custom("Zhaoxin-Next", "require"), "guest-aes"), "ok");
  const Section passthrough =
      with_cpu("<cpu mode='host-passthrough'><feature policy='disable' name='vaes'/></cpu>");
  EXPECT_EQ(found(passthrough, "guest-no-vector-aes"), "note");
}

TEST(GuestCpu, WhatIsNoProcessorOfThisKind) {
  EXPECT_EQ(
      found(examine_domain(domain_with_cpu("", "kvm", "aarch64"), capable_host()), "guest-arch-unknown"),
      "note");
  EXPECT_EQ(found(with_cpu(""), "guest-arch-unknown"), "");
  const Section emulated =
      examine_domain(domain_with_cpu("<cpu mode='host-model'/>", "qemu"), capable_host());
  EXPECT_EQ(found(emulated, "guest-emulated"), "attention");
  EXPECT_EQ(found(with_cpu(""), "guest-emulated"), "");
}

TEST(CpuModels, VariantsAreTheModel) {
  EXPECT_EQ(features_of_model("Skylake-Server-noTSX-IBRS"), features_of_model("Skylake-Server"));
  EXPECT_EQ(features_of_model("EPYC-v4"), features_of_model("EPYC"));
  EXPECT_TRUE(features_of_model("EPYC-Milan-v2")->vaes);
  EXPECT_FALSE(features_of_model("EPYC-Milan")->vaes);
  EXPECT_FALSE(features_of_model("Penryn-v"));
  EXPECT_FALSE(features_of_model("-IBRS"));
  EXPECT_FALSE(features_of_model(""));
}

TEST(Disks, EncryptedOnTheHost) {
  EXPECT_EQ(found(with_disk(luks_disk()), "disk-encrypted"), "ok");
  EXPECT_EQ(with_disk(luks_disk()).findings.size(), 1u);
  const Section ceph = with_disk(luks_disk("type='raw'", "engine='librbd'"));
  EXPECT_NE(sentence(ceph, "disk-encrypted").find("librbd"), std::string::npos);
  EXPECT_EQ(found(ceph, "disk-no-iothread"), "");
  // libvirt takes it beside <source> too.
  const DomainDisk beside = disk("type='qcow2'", "<source file='/a'/><encryption format='luks'/>");
  EXPECT_EQ(found(with_disk(beside), "disk-encrypted"), "ok");
}

TEST(Disks, LegacyEncryption) {
  const DomainDisk legacy = disk("type='qcow2'", "<source file='/a'><encryption format='qcow'/></source>");
  EXPECT_EQ(found(with_disk(legacy), "disk-legacy-encryption"), "attention");
  EXPECT_EQ(found(with_disk(luks_disk()), "disk-legacy-encryption"), "");
}

TEST(Disks, WhatTheImageSaysOtherwise) {
  DomainDisk lie = luks_disk();
  lie.probe = {.looked = true};
  EXPECT_EQ(found(with_disk(lie), "disk-encryption-mismatch"), "attention");
  lie.probe.encrypted = true;
  EXPECT_EQ(found(with_disk(lie), "disk-encryption-mismatch"), "");
  DomainDisk forgotten = disk("type='qcow2'");
  forgotten.probe = {.looked = true, .encrypted = true};
  EXPECT_EQ(found(with_disk(forgotten), "disk-encryption-mismatch"), "attention");
}

TEST(Disks, EncryptedByTheGuestOrNobody) {
  DomainDisk plain = disk("type='raw'");
  plain.probe = {.reason = "no such file"};
  EXPECT_EQ(found(with_disk(plain), "disk-plain"), "note");
  EXPECT_NE(sentence(with_disk(plain), "disk-plain").find("no such file"), std::string::npos);
  plain.probe = {.looked = true, .luks_at_start = true};
  EXPECT_EQ(found(with_disk(plain), "disk-guest-luks"), "ok");
  EXPECT_EQ(found(with_disk(plain), "disk-plain"), "");
}

TEST(Disks, Caches) {
  EXPECT_EQ(found(with_disk(disk("type='raw' cache='unsafe'")), "disk-cache-unsafe"), "attention");
  EXPECT_EQ(found(with_disk(disk("type='raw' cache='none'")), "disk-cache-unsafe"), "");
  EXPECT_EQ(found(with_disk(disk("type='raw' cache='writethrough'")), "disk-cache-writethrough"), "note");
  EXPECT_EQ(found(with_disk(disk("type='raw' cache='directsync'")), "disk-cache-writethrough"), "note");
  EXPECT_EQ(found(with_disk(disk("type='raw' cache='writeback'")), "disk-cache-writethrough"), "");
  EXPECT_EQ(found(with_disk(disk("type='raw' io='native'")), "disk-io-native"), "attention");
  EXPECT_EQ(found(with_disk(disk("type='raw' io='native' cache='none'")), "disk-io-native"), "");
}

TEST(Disks, DiscardAndIothreads) {
  EXPECT_EQ(found(with_disk(disk("type='qcow2'")), "disk-discard"), "note");
  EXPECT_EQ(found(with_disk(disk("type='qcow2' discard='unmap'")), "disk-discard"), "");
  EXPECT_EQ(found(with_disk(luks_disk("type='qcow2'")), "disk-no-iothread"), "note");
  EXPECT_EQ(found(with_disk(luks_disk()), "disk-no-iothread"), "");
  EXPECT_EQ(found(with_disk(disk("type='qcow2'")), "disk-no-iothread"), "");
}

TEST(Disks, OnlyDisksCount) {
  const Domain domain = parse_domain(
      "<domain><devices><disk device='cdrom'><target dev='sda'/></disk><disk device='floppy'/>"
      "<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target "
      "dev='vdb'/></disk>"
      "<disk type='volume' device='lun'><source pool='p' volume='v'/><target "
      "dev='vdc'/></disk></devices></domain>",
      "test");
  ASSERT_EQ(domain.disks.size(), 2u);
  EXPECT_EQ(domain.disks[0].source, "rbd:pool/image");
  EXPECT_FALSE(domain.disks[0].source_is_path);
  EXPECT_EQ(domain.disks[1].source, "volume v of pool p");
}

TEST(Xml, AStatusFileHoldsTheDomain) {
  const Domain domain = parse_domain(
      "<!-- WARNING --><domstatus state='running'><domain type='kvm'><name>x</name></domain></domstatus>",
      "test");
  EXPECT_EQ(domain.name, "x");
}

TEST(Xml, HostileAndBrokenIsRefused) {
  const std::string laughs =
      "<?xml version='1.0'?><!DOCTYPE domain [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]>"
      "<domain><name>&b;</name></domain>";
  const std::string outside = "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain><name>x</name></domain>";
  for (const std::string& xml :
       {laughs, outside, std::string(), std::string("no xml"), std::string("<network/>"),
        std::string("<domain>"), std::string("<domain><name></domain>"), std::string("QFI\xfb\0\0\0\3", 8)})
    EXPECT_THROW(parse_domain(xml, "test"), Error) << xml;
  EXPECT_THROW(parse_domain(std::string(kMaxDomainXmlBytes + 1, ' '), "test"), Error);
  // Entities that nobody declared stay as they are.
  EXPECT_EQ(parse_domain("<domain><name>&b;&amp;</name></domain>", "test").name, "&b;&");
}

TEST(Xml, DepthCostsNoStack) {
  std::string deep = "<domain>";
  for (int i = 0; i < 300'000; ++i) deep += "<a>";
  for (int i = 0; i < 300'000; ++i) deep += "</a>";
  EXPECT_TRUE(parse_domain(deep + "</domain>", "test").disks.empty());
}

TEST(Xml, WhatCannotBeRead) {
  EXPECT_THROW(read_domain("/nonexistent/domain.xml"), Error);
  EXPECT_THROW(read_domain("/dev/zero"), Error);
}

}  // namespace
}  // namespace cofre::doctor

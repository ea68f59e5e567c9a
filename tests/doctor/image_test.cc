// Every finding on an image and its chain, where it appears and where it does not, from facts.
// tests/peers/test_doctor.py has images that qemu-img and cryptsetup made.
#include "doctor/image.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "doctor/ids.h"

namespace cofre::doctor {
namespace {

LayerFacts qcow2_layer(const std::string& path, Encryption encryption = Encryption::kLuks) {
  LayerFacts layer;
  layer.path = path;
  layer.format = image::Format::kQcow2;
  layer.virtual_bytes = 10 * kGiB;
  layer.encryption = encryption;
  layer.qcow2.emplace().cluster_bytes = 64 * kKiB;
  if (encryption != Encryption::kLuks) return layer;
  layer.luks = luks::luks1_plan_header(crypto::CipherSpec{}, crypto::DigestAlgorithm::sha256);
  layer.luks->keyslots[0].active = true;
  layer.luks->keyslots[0].iterations = 1'500'000;
  return layer;
}

Section examined(std::vector<LayerFacts> layers) {
  ImageFacts facts;
  facts.name = layers[0].path;
  facts.layers = std::move(layers);
  return examine_image(facts);
}

TEST(Image, ALuksImageIsFine) {
  const Section section = examined({qcow2_layer("a")});
  EXPECT_EQ(attentions(section), 0u);
  EXPECT_EQ(found(section, "luks"), "ok");
  EXPECT_EQ(found(section, "qcow2-metadata-cache"), "ok");
  EXPECT_EQ(found(section, "read-speed-left-out"), "");
}

TEST(Image, LegacyAes) {
  const Section section = examined({qcow2_layer("my disk", Encryption::kLegacyAes)});
  EXPECT_EQ(found(section, "qcow2-legacy-aes"), "attention");
  EXPECT_EQ(
      section.findings[0].remedy,
      "cofre convert -O qcow2 -o encrypt.format=luks --passphrase-file KEYFILE 'my disk' 'my disk.new'");
}

TEST(Image, LayersThatAreNotEncrypted) {
  const LayerFacts plain = qcow2_layer("plain", Encryption::kNone);
  EXPECT_EQ(found(examined({plain}), "not-encrypted"), "note");
  EXPECT_EQ(found(examined({plain, plain}), "plain-backing"), "");
  EXPECT_EQ(found(examined({qcow2_layer("top"), plain}), "plain-backing"), "attention");
  EXPECT_EQ(found(examined({plain, qcow2_layer("base")}), "plain-overlay"), "attention");
  EXPECT_EQ(attentions(examined({qcow2_layer("top"), qcow2_layer("base")})), 0u);
}

TEST(Image, BitsOfTheHeader) {
  LayerFacts layer = qcow2_layer("a");
  layer.qcow2->corrupt = true;
  EXPECT_EQ(found(examined({layer}), "qcow2-corrupt"), "attention");
  EXPECT_EQ(found(examined({layer}), "qcow2-dirty"), "");
  layer = qcow2_layer("a");
  layer.qcow2->dirty = true;
  EXPECT_EQ(found(examined({layer}), "qcow2-dirty"), "attention");
  EXPECT_EQ(found(examined({layer}), "qcow2-corrupt"), "");
}

TEST(Image, ContentThatIsNotEncrypted) {
  LayerFacts layer = qcow2_layer("a");
  layer.qcow2->compressed_bytes = 64 * kKiB;
  layer.qcow2->snapshots = 1;
  EXPECT_EQ(found(examined({layer}), "qcow2-plain-compressed"), "attention");
  EXPECT_EQ(found(examined({layer}), "qcow2-snapshots-not-searched"), "");
  layer.qcow2->compressed_bytes = 0;
  EXPECT_EQ(found(examined({layer}), "qcow2-plain-compressed"), "");
  EXPECT_EQ(found(examined({layer}), "qcow2-snapshots-not-searched"), "note");
  layer.qcow2->map_error = "an entry is bad";
  EXPECT_EQ(found(examined({layer}), "qcow2-tables-bad"), "attention");
}

TEST(Image, ClustersAndTheirTables) {
  LayerFacts layer = qcow2_layer("a");
  layer.virtual_bytes = 256 * kGiB;  // what QEMU's 32 MiB cover
  EXPECT_EQ(found(examined({layer}), "qcow2-metadata-cache"), "ok");
  EXPECT_EQ(found(examined({layer}), "qcow2-small-clusters"), "");
  layer.virtual_bytes += 64 * kKiB;
  EXPECT_EQ(found(examined({layer}), "qcow2-metadata-cache"), "");
  EXPECT_EQ(found(examined({layer}), "qcow2-metadata-cache-small"), "note");
  layer.virtual_bytes = kGiB;
  layer.qcow2->cluster_bytes = 4 * kKiB;
  EXPECT_EQ(found(examined({layer}), "qcow2-small-clusters"), "note");
  EXPECT_EQ(found(examined({layer}), "qcow2-metadata-cache-small"), "");
}

TEST(Image, TheChain) {
  LayerFacts top = qcow2_layer("a");
  top.backing_file = "b";
  EXPECT_EQ(found(examined({top, qcow2_layer("b")}), "backing-format-missing"), "attention");
  top.backing_format = "qcow2";
  EXPECT_EQ(found(examined({top, qcow2_layer("b")}), "backing-format-missing"), "");
  EXPECT_EQ(found(examined({top, qcow2_layer("b")}), "backing-unreadable"), "");
  ImageFacts facts;
  facts.layers = {top};
  facts.backing_error = "no such file";
  EXPECT_EQ(found(examine_image(facts), "backing-unreadable"), "attention");
}

TEST(Image, AnotherVersionOfLuks) {
  LayerFacts raw;
  raw.path = "disk";
  EXPECT_EQ(found(examined({raw}), "luks2"), "");
  raw.starts_like_luks2 = true;
  EXPECT_EQ(found(examined({raw}), "luks2"), "note");
  EXPECT_EQ(found(examined({raw}), "not-encrypted"), "");
}

TEST(Image, TheSpeedOfReading) {
  ImageFacts facts;
  facts.layers = {qcow2_layer("a")};
  facts.read_speed = {.measured_bytes = kMiB, .content = 2e9, .file = 5e9};
  EXPECT_NE(sentence(examine_image(facts), "read-speed").find("2.0 GB/s decrypted"), std::string::npos);
  EXPECT_EQ(found(examine_image(facts), "read-speed-left-out"), "");
  facts.read_speed = ReadSpeed{};
  EXPECT_EQ(found(examine_image(facts), "read-speed-no-data"), "ok");
  EXPECT_EQ(found(examine_image(facts), "read-speed"), "");
  facts.read_speed.reset();
  EXPECT_EQ(found(examine_image(facts), "read-speed-left-out"), "") << "nobody asked to measure it";
  facts.lacks_passphrase = true;
  EXPECT_EQ(found(examine_image(facts), "read-speed-left-out"), "note");
}

}  // namespace
}  // namespace cofre::doctor

#include "job/chain_store.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"
#include "block/borrowed.h"
#include "format/qcow2/check.h"
#include "storage/memory.h"

namespace cofre::job::test {
namespace {

const ConstBytes kPassphrase = std::as_bytes(std::span("pass", 4));

std::unique_ptr<storage::MemoryDevice> memory(const std::string& name, const Content& bytes) {
  auto device = std::make_unique<storage::MemoryDevice>(bytes.size(), name);
  device->content() = bytes;
  device->mutable_limits().growable = true;
  return device;
}

}  // namespace

void ChainStore::make(const std::string& name, uint64_t size, const std::string& backing,
                      const Layout& layout) {
  qcow2::CreateOptions options;
  options.size_bytes = size;
  options.cluster_bits = layout.cluster_bits;
  options.extended_l2 = layout.extended_l2;
  options.encryption = layout.encryption;
  options.luks.forced_iterations = 1000;
  if (!backing.empty()) {
    options.backing_file = backing;
    options.backing_format = "qcow2";
  }
  const auto disk = memory(name, {});
  run(qcow2::create_image(*disk, options, kPassphrase));
  files[name] = disk->content();
  auto image = open(name, {{name, disk.get()}});
  write_randomly(*image);
  run(image->close());
  files[name] = disk->content();
}

void ChainStore::make_random(const std::string& name, const std::string& backing, uint64_t most_bytes) {
  Layout layout;
  layout.extended_l2 = random() % 3 == 0;
  layout.cluster_bits = layout.extended_l2 ? 14 : 9 + static_cast<uint32_t>(random() % 6);
  const uint64_t method = random() % 8;  // luks is slow to make
  layout.encryption = method == 0  ? qcow2::CryptMethod::kLuks
                      : method < 4 ? qcow2::CryptMethod::kAes
                                   : qcow2::CryptMethod::kNone;
  make(name, (1 + random() % (most_bytes / kSectorBytes)) * kSectorBytes, backing, layout);
}

void ChainStore::write_randomly(qcow2::Image& image) {
  const uint64_t sectors = image.length_bytes() / kSectorBytes;
  for (uint64_t i = random() % 10; i > 0; --i) {
    const uint64_t first = random() % sectors;
    const uint64_t count = 1 + random() % std::min<uint64_t>(sectors - first, 100);
    if (random() % 3 == 0) {
      run(image.write_zeroes(first * kSectorBytes, count * kSectorBytes, {.may_unmap = true}));
      continue;
    }
    // Few values, so that layers often agree.
    const Content bytes(count * kSectorBytes, static_cast<std::byte>(random() % 3));
    run(image.write(first * kSectorBytes, bytes));
  }
}

std::unique_ptr<qcow2::Image> ChainStore::open(const std::string& name,
                                               const std::map<std::string, block::Device*>& lent,
                                               std::vector<qcow2::Image*>* chain) {
  const auto used = lent.find(name);
  std::unique_ptr<block::Device> file;
  if (used != lent.end()) {
    file = std::make_unique<block::Borrowed>(*used->second);
  } else {
    file = memory(name, files.at(name));
  }
  auto image = run(qcow2::Image::open(std::move(file), {.read_only = used == lent.end()}));
  if (image->needs_secret()) run(image->unlock(kPassphrase));
  if (chain != nullptr) chain->push_back(image.get());
  if (image->header().backing_file) image->set_backing(open(*image->header().backing_file, lent, chain));
  return image;
}

Content ChainStore::content(const std::string& name, const std::map<std::string, Content>& changed) {
  ChainStore now(1);
  now.files = files;
  for (const auto& [file, bytes] : changed) now.files[file] = bytes;
  const auto image = now.open(name, {});
  Content content(image->length_bytes());
  now.run(image->read(0, content));
  return content;
}

void ChainStore::expect_sound(const std::string& name, const Content& bytes) {
  auto image = run(qcow2::Image::open(memory(name, bytes), {.read_only = true, .for_check = true}));
  const qcow2::CheckResult result = run(qcow2::check(*image, {}));
  EXPECT_EQ(result.corruptions, 0u) << name;
  EXPECT_EQ(result.check_errors, 0u) << name;
}

}  // namespace cofre::job::test

// Compressed clusters as they are written: their streams, how they share host clusters, and what is refused.
#include <zlib.h>

#include <algorithm>

#include "base/checked.h"
#include "block/checked.h"
#include "format/qcow2/compress.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

using Buffer = std::vector<std::byte>;

// Text of a few words, with stretches of noise: finds matches at every distance.
Buffer mixed(std::mt19937_64& random, size_t size) {
  static constexpr std::string_view kWords[] = {"cluster ",
                                                "refcount ",
                                                "sector ",
                                                "\n",
                                                "0123456789",
                                                "table of entries ",
                                                "aaaaaaaaaaaaaaaaaaaaaaaa"};
  Buffer bytes;
  while (bytes.size() < size) {
    if (random() % 20 == 0) {
      for (uint64_t i = random() % 200; i > 0; --i) bytes.push_back(static_cast<std::byte>(random()));
    } else if (bytes.size() > 8000 && random() % 10 == 0) {
      // Repeats what stands some way back: near, at the limit of the window, and behind it.
      const size_t distance = 3500 + random() % 4400;
      for (uint64_t i = random() % 300; i > 0; --i) bytes.push_back(bytes[bytes.size() - distance]);
    } else {
      const ConstBytes word = as_bytes(kWords[random() % std::size(kWords)]);
      bytes.insert(bytes.end(), word.begin(), word.end());
    }
  }
  bytes.resize(size);
  return bytes;
}

CreateOptions of_size(uint64_t bytes) {
  CreateOptions options;
  options.size_bytes = bytes;
  return options;
}

Buffer noise(std::mt19937_64& random, size_t size) {
  Buffer bytes(size);
  std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

// What zlib decodes with a window of 4 KiB, taking one byte at a time so that nothing else is within its
// reach. Empty: it refuses.
Buffer inflate_with_4k_window(ConstBytes stream) {
  z_stream z = {};
  EXPECT_EQ(inflateInit2(&z, -12), Z_OK);
  Buffer input(stream.begin(), stream.end());
  z.next_in = reinterpret_cast<Bytef*>(input.data());
  z.avail_in = static_cast<uInt>(input.size());
  Buffer bytes;
  int result = Z_OK;
  while (result == Z_OK) {
    Bytef byte = 0;
    z.next_out = &byte;
    z.avail_out = 1;
    result = inflate(&z, Z_NO_FLUSH);
    if (z.avail_out == 0) bytes.push_back(static_cast<std::byte>(byte));
  }
  inflateEnd(&z);
  return result == Z_STREAM_END ? bytes : Buffer();
}

Buffer deflate_with_32k_window(ConstBytes from) {
  z_stream z = {};
  EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
  Buffer input(from.begin(), from.end());
  Buffer stream(deflateBound(&z, input.size()));
  z.next_in = reinterpret_cast<Bytef*>(input.data());
  z.avail_in = static_cast<uInt>(input.size());
  z.next_out = reinterpret_cast<Bytef*>(stream.data());
  z.avail_out = static_cast<uInt>(stream.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  stream.resize(z.total_out);
  deflateEnd(&z);
  return stream;
}

TEST(CompressedStream, LooksBack4KiBAtMost) {
  std::mt19937_64 random(test_seed());
  for (uint32_t bits = 9; bits <= 21; ++bits) {
    for (int round = 0; round < (bits < 16 ? 20 : 2); ++round) {
      const Buffer cluster = mixed(random, size_t{1} << bits);
      Buffer stream(cluster.size() - 1);
      const size_t length = compress(CompressionType::kDeflate, cluster, stream);
      if (length == 0) continue;
      EXPECT_EQ(inflate_with_4k_window(ConstBytes(stream).first(length)), cluster) << "cluster bits " << bits;
    }
  }
  // And the test would see it: a stream that looks back further is refused.
  const Buffer cluster = mixed(random, 64 * kKiB);
  EXPECT_TRUE(inflate_with_4k_window(deflate_with_32k_window(cluster)).empty());
}

TEST(CompressedStream, ComesBackWhole) {
  std::mt19937_64 random(test_seed());
  for (const CompressionType type : {CompressionType::kDeflate, CompressionType::kZstd}) {
    for (uint32_t bits = 9; bits <= 21; ++bits) {
      const Buffer cluster = bits % 2 == 0 ? mixed(random, size_t{1} << bits) : Buffer(size_t{1} << bits);
      Buffer stream(cluster.size() - 1);
      const size_t length = compress(type, cluster, stream);
      ASSERT_GT(length, 0u) << "cluster bits " << bits;
      Buffer back(cluster.size());
      // Behind the stream in its last sector stands the next one.
      EXPECT_TRUE(decompress(type, ConstBytes(stream), back));
      EXPECT_EQ(back, cluster);
      EXPECT_FALSE(decompress(type, ConstBytes(stream).first(length / 2), back));
    }
  }
}

TEST(CompressedStream, NoiseDoesNotFit) {
  std::mt19937_64 random(test_seed());
  for (const CompressionType type : {CompressionType::kDeflate, CompressionType::kZstd}) {
    for (uint32_t bits = 9; bits <= 21; ++bits) {
      const Buffer cluster = noise(random, size_t{1} << bits);
      Buffer stream(cluster.size() - 1 + 64, std::byte{0x5a});
      EXPECT_EQ(compress(type, cluster, Bytes(stream).first(cluster.size() - 1)), 0u);
      const ConstBytes behind = ConstBytes(stream).subspan(cluster.size() - 1);
      EXPECT_TRUE(std::ranges::all_of(behind, [](std::byte b) { return b == std::byte{0x5a}; }));
    }
  }
}

// What other programs' streams may be: not ended, or followed by anything.
TEST(CompressedStream, StreamsWithoutEndAreTaken) {
  std::mt19937_64 random(test_seed());
  const Buffer cluster = mixed(random, 4096);
  Buffer longer = cluster;
  longer.insert(longer.end(), cluster.begin(), cluster.end());
  Buffer back(cluster.size());
  EXPECT_TRUE(decompress(CompressionType::kDeflate, deflate_with_32k_window(longer), back));
  EXPECT_EQ(back, cluster);
}

class Compressed : public testing::Test {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  void open(const CreateOptions& options) {
    run(create_image(file_, options, as_bytes("key")));
    image_ = run(Image::open(block::make_checked(std::make_unique<Borrowed>(file_)), {}));
    if (image_->needs_secret()) run(image_->unlock(as_bytes("key")));
  }
  void write(uint64_t offset, const Buffer& bytes) {
    run(image_->write(offset, bytes, {.compressed = true}));
  }
  void expect_content(uint64_t offset, const Buffer& bytes) {
    Buffer now(bytes.size());
    run(image_->read(offset, now));
    EXPECT_TRUE(now == bytes) << "at " << offset;
  }
  void close_and_check() {
    run(image_->close());
    image_ = run(Image::open(std::make_unique<Borrowed>(file_), {.for_check = true}));
    std::string said;
    const CheckResult result =
        run(check(*image_, {.report = [&](const std::string& s) { said += s + "\n"; }}));
    EXPECT_EQ(result.corruptions, 0u) << said;
    EXPECT_EQ(result.leaks, 0u) << said;
  }

  io::SimulatedReactor reactor_{test_seed()};
  std::mt19937_64 random_{test_seed()};
  storage::MemoryDevice file_{0, "image.qcow2"};
  std::unique_ptr<Image> image_;
};

TEST_F(Compressed, ManyShareAHostCluster) {
  open(of_size(16 * kMiB));
  const Buffer ones(64 * kKiB, std::byte{1});
  const uint64_t before = file_.length_bytes();
  for (uint64_t at = 0; at < 4 * kMiB; at += 64 * kKiB) write(at, ones);
  write(4 * kMiB, Buffer(4 * kMiB, std::byte{2}));
  EXPECT_LE(file_.length_bytes(), before + 2 * 64 * kKiB);  // an L2 table, and a cluster for all of them
  EXPECT_TRUE(run(image_->map(0, 8 * kMiB)).compressed);
  expect_content(kMiB, ones);
  close_and_check();
}

// A count of one bit has room for one reference, one of two bits for three.
TEST_F(Compressed, NarrowRefcountsKeepClustersApart) {
  for (const uint32_t order : {0u, 1u}) {
    file_.content().clear();
    run(file_.resize(0));
    CreateOptions options = of_size(kMiB);
    options.cluster_bits = 12;
    options.refcount_order = order;
    open(options);
    const uint64_t before = file_.length_bytes();
    write(0, Buffer(48 * kKiB, std::byte{7}));
    const uint64_t clusters = (file_.length_bytes() - before + 4095) / 4096;
    EXPECT_EQ(clusters, 1 + 12u / (order == 0 ? 1 : 3));
    expect_content(0, Buffer(48 * kKiB, std::byte{7}));
    close_and_check();
  }
}

TEST_F(Compressed, NoiseIsStoredAsItIs) {
  open(of_size(16 * kMiB));
  Buffer bytes = noise(random_, 256 * kKiB);
  std::fill_n(bytes.begin() + 64 * kKiB, 64 * kKiB, std::byte{3});
  write(0, bytes);
  EXPECT_FALSE(run(image_->map(0, 64 * kKiB)).compressed);
  EXPECT_TRUE(run(image_->map(64 * kKiB, 64 * kKiB)).compressed);
  EXPECT_FALSE(run(image_->map(128 * kKiB, 64 * kKiB)).compressed);
  expect_content(0, bytes);
  close_and_check();
}

// The cluster that compressed bytes were added to last comes to another use.
TEST_F(Compressed, AFreedClusterIsNotAddedTo) {
  CreateOptions options = of_size(kMiB);
  options.cluster_bits = 12;
  open(options);
  for (int round = 0; round < 8; ++round) {
    write(0, Buffer(8192, static_cast<std::byte>(round + 1)));
    run(image_->discard(0, 8192));
    run(image_->flush());
    run(image_->flush());
    const Buffer plain(16 * kKiB, static_cast<std::byte>(0x40 + round));
    run(image_->write(64 * kKiB, plain));
    write(128 * kKiB, Buffer(8192, std::byte{9}));
    expect_content(64 * kKiB, plain);
    run(image_->discard(64 * kKiB, 16 * kKiB));
  }
  close_and_check();
}

TEST_F(Compressed, TheDisksEndWithinACluster) {
  open(of_size(kMiB + 1536));
  write(kMiB - 64 * kKiB, Buffer(64 * kKiB + 1536, std::byte{8}));
  EXPECT_TRUE(run(image_->map(kMiB, 1536)).compressed);
  run(image_->resize(2 * kMiB));
  expect_content(kMiB, [] {
    Buffer cluster(64 * kKiB);
    std::fill_n(cluster.begin(), 1536, std::byte{8});
    return cluster;
  }());
  close_and_check();
}

TEST_F(Compressed, RefusesPartsOfClusters) {
  open(of_size(kMiB));
  const Buffer bytes(64 * kKiB);
  image_ = run(Image::open(std::make_unique<Borrowed>(file_), {}));  // unchecked: it has to see them itself
  expect_error(ErrorKind::kInvalidArgument, "whole clusters", [&] { write(512, bytes); });
  expect_error(ErrorKind::kInvalidArgument, "whole clusters", [&] { write(0, Buffer(512)); });
  run(image_->close());
}

TEST_F(Compressed, RefusesEncryptedImagesAndDataFiles) {
  CreateOptions encrypted = of_size(kMiB);
  encrypted.encryption = CryptMethod::kAes;
  open(encrypted);
  EXPECT_EQ(image_->limits().compressed_unit_bytes, 0u);
  image_ = run(Image::open(std::make_unique<Borrowed>(file_), {}));
  run(image_->unlock(as_bytes("key")));
  expect_error(ErrorKind::kUnsupported, "plain text", [&] { write(0, Buffer(64 * kKiB)); });

  storage::MemoryDevice data(kMiB, "data.raw");
  storage::MemoryDevice file(0, "with-data.qcow2");
  CreateOptions external = of_size(kMiB);
  external.data_file = "data.raw";
  run(create_image(file, external, {}));
  image_ = run(Image::open(std::make_unique<Borrowed>(file), {}));
  image_->set_data_file(std::make_unique<Borrowed>(data));
  EXPECT_EQ(image_->limits().compressed_unit_bytes, 0u);
  expect_error(ErrorKind::kUnsupported, "external file", [&] { write(0, Buffer(64 * kKiB)); });
  image_.reset();
}

}  // namespace
}  // namespace cofre::qcow2

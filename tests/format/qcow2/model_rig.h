// An image over memory beside a model of its bytes: random requests, many in flight and overlapping, in an
// order of completion that a seed decides.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/checked.h"
#include "io/sync.h"
#include "support.h"

namespace cofre::qcow2 {

struct Shape {
  std::string name;
  CreateOptions create;
  uint64_t l2_cache_bytes = 1;  // the smallest cache
  uint64_t backing_bytes = 0;   // of a raw backing file; 0: none
};

Shape shape_of(std::string name, uint32_t cluster_bits, uint64_t size, uint32_t refcount_order = 4);

class ModelRig {
 public:
  ModelRig(const Shape& shape, uint64_t seed);

  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  std::mt19937_64& random() noexcept { return random_; }
  storage::MemoryDevice& file() noexcept { return file_; }
  storage::MemoryDevice& data_file() noexcept { return data_file_; }
  Image& image() noexcept { return *image_; }
  std::vector<std::byte>& model() noexcept { return model_; }

  void create();
  void open();
  // Over a device that stands before file() and outlives the image.
  void open_through(block::Device& device) { image_ = open_over(device, data_file_); }
  void close();
  // Destroys the image as a crash would.
  void drop() noexcept { image_.reset(); }

  // `count` requests by several clients at once. Afterwards each sector must read as one of those that
  // covered it left it; the model takes it so.
  void burst(int count);
  // The whole image reads as the model says.
  void verify();
  void expect_clean();

  // Opens the image in `file` with this shape's options, key, data file and backing file.
  std::unique_ptr<Image> open_over(block::Device& file, block::Device& data_file, bool for_check = false);
  // The same, but read-only, showing the snapshot of that number.
  std::unique_ptr<Image> open_snapshot(block::Device& file, size_t number);
  io::task<std::unique_ptr<Image>> opening_snapshot(block::Device& file, size_t number);
  CheckResult check_over(block::Device& file);
  // The same, but the refcounts of a dirty image need not be right.
  void check_over_unless_dirty(block::Device& file);

  bool is_dirty(block::Device& file);
  // Neither encrypted nor with a data file.
  bool plain() const;

  // A random request's range and its outcome. Discards and zeroes are told apart from writes by `kind`.
  enum class Kind { kWrite, kZero, kDiscard };
  struct Request {
    Kind kind = Kind::kWrite;
    uint64_t offset = 0;
    uint64_t length = 0;
    std::vector<std::byte> bytes;
    block::WriteFlags flags;
  };
  Request random_request();
  // The part of the request's range that it surely makes read as zero or as its bytes.
  struct Effect {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  Effect effect_of(const Request& request) const;
  io::task<void> perform(const Request& request);

 private:
  io::task<std::unique_ptr<Image>> opening(block::Device& file, block::Device& data_file,
                                           OpenOptions options);
  void make_compressed(Request& request);
  void fill(Request& request);
  uint64_t cluster_bytes() const { return uint64_t{1} << shape_.create.cluster_bits; }
  void settle(const std::vector<Request>& requests);
  bool sector_agrees(const Request& request, uint64_t sector, ConstBytes now) const;

  Shape shape_;
  std::mt19937_64 random_;
  io::SimulatedReactor reactor_;
  storage::MemoryDevice file_{0, "image.qcow2"};
  storage::MemoryDevice data_file_{0, "data.raw"};
  storage::MemoryDevice backing_{0, "backing.raw"};
  std::unique_ptr<Image> image_;
  std::vector<std::byte> model_;
};

// Every shape that matters: cluster sizes, refcount widths, versions, subclusters, ciphers, data and backing
// files.
std::vector<Shape> all_shapes();

}  // namespace cofre::qcow2

// Small backing chains in memory, opened by the names in their headers as a tool opens files, and their
// content as it should be.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "block/device.h"
#include "format/qcow2/image.h"
#include "io/simulated_reactor.h"

namespace cofre::job::test {

using Content = std::vector<std::byte>;

// Stands for a device that outlives it.
class Lent final : public block::Device {
 public:
  explicit Lent(block::Device& inner) : inner_(inner) {}
  const std::string& name() const override { return inner_.name(); }
  const block::Limits& limits() const override { return inner_.limits(); }
  uint64_t length_bytes() const override { return inner_.length_bytes(); }
  io::task<void> read(uint64_t offset, Bytes to) override { return inner_.read(offset, to); }
  io::task<void> write(uint64_t offset, ConstBytes from, block::WriteFlags flags) override {
    return inner_.write(offset, from, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    return inner_.write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override { return inner_.discard(offset, length); }
  io::task<void> flush() override { return inner_.flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_.map(offset, length);
  }
  io::task<void> resize(uint64_t length) override { return inner_.resize(length); }
  io::task<void> close() override { return inner_.close(); }

 private:
  block::Device& inner_;
};

struct Layout {
  uint32_t cluster_bits = 12;
  bool extended_l2 = false;
  qcow2::CryptMethod encryption = qcow2::CryptMethod::kNone;
};

class ChainStore {
 public:
  explicit ChainStore(uint64_t seed) : random(seed), reactor(seed) {}

  // A new image with random writes in it; `backing` empty: none.
  void make(const std::string& name, uint64_t size, const std::string& backing, const Layout& layout);
  // A random layout and a random size up to `most_bytes`, not always of whole clusters.
  void make_random(const std::string& name, const std::string& backing, uint64_t most_bytes);

  // Opens the image of that name and, by their headers, all below it. A file in `lent` is used in place of
  // the bytes here and may be written to. `chain`, if given, gets the images, the top first.
  std::unique_ptr<qcow2::Image> open(const std::string& name,
                                     const std::map<std::string, block::Device*>& lent,
                                     std::vector<qcow2::Image*>* chain = nullptr);
  // What the image shows, with the bytes of some files as given.
  Content content(const std::string& name, const std::map<std::string, Content>& changed = {});
  // Expects that a check finds no corruption in the image; leaks do no harm.
  void expect_sound(const std::string& name, const Content& bytes);

  template <typename T>
  T run(io::task<T> work) {
    return reactor.run_until_done(std::move(work));
  }

  std::mt19937_64 random;
  io::SimulatedReactor reactor;
  std::map<std::string, Content> files;

 private:
  void write_randomly(qcow2::Image& image);
};

}  // namespace cofre::job::test

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

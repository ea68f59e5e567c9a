// A folder for one test's files, gone when the test ends.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

namespace cofre::test {

class ScratchDir {
 public:
  ScratchDir();
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  // Makes a file of random runs of data, zero bytes and holes, and gives its path.
  std::string sparse_file(const std::string& name, uint64_t length, std::mt19937_64& random) const;

 private:
  std::string folder_;
};

std::vector<std::byte> read_file(const std::string& path);

// The [start, end) ranges of a file that the file system says hold data.
std::vector<std::pair<uint64_t, uint64_t>> data_ranges(const std::string& path);

}  // namespace cofre::test

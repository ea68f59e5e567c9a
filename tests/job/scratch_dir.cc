#include "job/scratch_dir.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace cofre::test {

ScratchDir::ScratchDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "cofre-job-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) fail_errno(errno, "cannot make '{}'", pattern);
  folder_ = pattern;
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string ScratchDir::sparse_file(const std::string& name, uint64_t length, std::mt19937_64& random) const {
  const std::string file = path(name);
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  for (uint64_t at = 0; at < length;) {
    const uint64_t sectors = 1 + random() % (random() % 4 == 0 ? 2000 : 60);
    const uint64_t run = std::min(sectors * 512, length - at);
    const uint64_t choice = random() % 3;
    if (choice == 0) {
      out.seekp(static_cast<std::streamoff>(at + run));
    } else {
      const std::vector<char> bytes(run, choice == 1 ? '\0' : static_cast<char>(1 + random() % 200));
      out.write(bytes.data(), static_cast<std::streamsize>(run));
    }
    at += run;
  }
  out.close();
  std::filesystem::resize_file(file, length);
  return file;
}

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::byte> bytes(chars.size());
  std::ranges::transform(chars, bytes.begin(), [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

std::vector<std::pair<uint64_t, uint64_t>> data_ranges(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno(errno, "cannot open '{}'", path);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  off_t at = 0;
  while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
    const off_t end = lseek(fd, at, SEEK_HOLE);
    ranges.emplace_back(at, end);
    at = end;
  }
  ::close(fd);
  return ranges;
}

}  // namespace cofre::test

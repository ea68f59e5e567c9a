// A folder of a test's own, gone when the test is; and the lane that the test runs on.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "block/device.h"
#include "io/lanes.h"

namespace cofre {

class ScratchTest : public testing::Test {
 protected:
  ScratchTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cofre-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no folder for the test: " + pattern);
    folder_ = pattern;
  }
  ~ScratchTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string write_file(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  std::string read_file(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  // Devices are called on a lane only: these are, as they start when run() awaits them.
  static io::task<void> read(block::Device& device, uint64_t offset, Bytes destination) {
    co_await device.read(offset, destination);
  }
  static io::task<void> write(block::Device& device, uint64_t offset, ConstBytes source) {
    co_await device.write(offset, source);
  }
  static io::task<block::Extent> map(block::Device& device, uint64_t offset, uint64_t length) {
    co_return co_await device.map(offset, length);
  }
  static io::task<void> close(block::Device& device) { co_await device.close(); }
  template <typename T>
  T run(io::task<T> work) {
    return lanes_.run(std::move(work));
  }

 private:
  std::string folder_;
  io::Lanes lanes_{1};
};

// The message of the Error that `call` throws; a test failure when it throws none of that kind.
template <typename Call>
std::string message_of(ErrorKind kind, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace cofre

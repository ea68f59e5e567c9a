// Runs storage tests over every backend, with a scratch folder.
#pragma once

#include "io/backend_fixture.h"
#include "storage/file.h"
#include "storage/scratch_dir.h"

namespace cofre::storage {

class StorageTest : public testing::TestWithParam<std::string> {
 protected:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_->run_until_done(std::move(work));
  }
  std::vector<std::byte> read(block::Device& device, uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length, std::byte{0xee});
    run(device.read(offset, bytes));
    return bytes;
  }

  std::unique_ptr<io::Reactor> reactor_ = io::reactor_named(GetParam());
  ScratchDir scratch_;
};

}  // namespace cofre::storage

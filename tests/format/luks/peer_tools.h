// Runs the programs whose LUKS volumes must be ours too: qemu-img, qemu-io and cryptsetup, which must be
// installed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace cofre::luks {

struct Outcome {
  int status = -1;     // the exit status; 128 + the signal that ended it; 127 when there is no such program
  std::string output;  // standard output and standard error
};

Outcome run_program(const std::vector<std::string>& command);
// Runs it and adds a test failure unless it ends well. Gives the output.
std::string expect_success(const std::vector<std::string>& command);

// A folder of its own, removed with everything in it.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string path(std::string_view name) const { return (folder_ / name).string(); }
  // Writes a file and gives its path.
  std::string write(std::string_view name, std::string_view content) const;

 private:
  std::filesystem::path folder_;
};

// qemu-img create -f luks. QEMU measures CPU time to choose its iterations and now and then gives up: it is
// run again.
std::string qemu_create(const std::string& path, const std::string& passphrase, const std::string& options,
                        const std::string& size);
// qemu-io with the container open; `commands` such as "read -P 0x11 0 4k". Gives the output, adds failures.
std::string qemu_io(const std::string& path, const std::string& passphrase,
                    const std::vector<std::string>& commands);

}  // namespace cofre::luks

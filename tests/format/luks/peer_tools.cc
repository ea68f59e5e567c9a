#include "peer_tools.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>

namespace cofre::luks {
namespace {

constexpr int kQemuTries = 60;

// Both ends of a pipe whose reading end is not inherited.
struct Pipe {
  std::array<int, 2> ends{-1, -1};
  Pipe() { EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0); }
  void close_end(size_t end) {
    if (ends[end] >= 0) close(ends[end]);
    ends[end] = -1;
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
};

std::string read_to_end(int fd) {
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got; (got = read(fd, buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  return text;
}

std::string joined(const std::vector<std::string>& command) {
  std::string line;
  for (const std::string& word : command) line += word + " ";
  return line;
}

}  // namespace

Outcome run_program(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  Pipe output;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output.ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, output.ends[1], 2);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return {127, "cannot run " + command[0]};
  output.close_end(1);
  Outcome outcome{.output = read_to_end(output.ends[0])};
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

std::string expect_success(const std::vector<std::string>& command) {
  const Outcome outcome = run_program(command);
  EXPECT_EQ(outcome.status, 0) << joined(command) << "\n" << outcome.output;
  return outcome.output;
}

ScratchFolder::ScratchFolder() {
  std::string pattern = testing::TempDir() + "/cofre-luks-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "cannot make " << pattern;
  folder_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string ScratchFolder::write(std::string_view name, std::string_view content) const {
  std::ofstream(path(name), std::ios::binary)
      .write(content.data(), static_cast<std::streamsize>(content.size()));
  return path(name);
}

std::string qemu_create(const std::string& path, const std::string& passphrase, const std::string& options,
                        const std::string& size) {
  const std::vector<std::string> command = {"qemu-img", "create",
                                            "-f",       "luks",
                                            "--object", "secret,id=s,data=" + passphrase,
                                            "-o",       "key-secret=s,iter-time=10" + options,
                                            path,       size};
  Outcome outcome;
  for (int tries = 0; tries < kQemuTries; ++tries) {
    std::filesystem::remove(path);
    outcome = run_program(command);
    if (outcome.output.find("Unable to get accurate CPU usage") == std::string::npos) break;
  }
  EXPECT_EQ(outcome.status, 0) << joined(command) << "\n" << outcome.output;
  return outcome.output;
}

std::string qemu_io(const std::string& path, const std::string& passphrase,
                    const std::vector<std::string>& commands) {
  std::vector<std::string> command = {"qemu-io", "--object", "secret,id=s,data=" + passphrase, "--image-opts",
                                      "driver=luks,key-secret=s,file.filename=" + path};
  for (const std::string& one : commands) command.insert(command.end(), {"-c", one});
  const std::string output = expect_success(command);
  EXPECT_EQ(output.find("verification failed"), std::string::npos) << joined(command) << "\n" << output;
  return output;
}

}  // namespace cofre::luks

#include "tool/bench/qemu_peer.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tool/bench/child.h"

namespace cofre::tool {
namespace {

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

// "/usr/bin/qemu-img" to "/usr/bin/qemu-io".
std::string beside(const std::string& qemu_img) {
  const size_t slash = qemu_img.rfind('/');
  return slash == std::string::npos ? "qemu-io" : qemu_img.substr(0, slash + 1) + "qemu-io";
}

std::string version_of(const std::string& program) {
  try {
    std::string line = first_line(run_child_well({.program = program, .arguments = {"--version"}}).output);
    if (!line.starts_with("qemu-"))
      fail(ErrorKind::kInvalidArgument, "'{}' is no qemu-img: it calls itself '{}'", program, line);
    return line;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kNotFound) throw;
    fail(ErrorKind::kNotFound,
         "there is no '{}' to compare with: install qemu-utils, name it with its path, or leave out --vs",
         program);
  }
}

// The load as commands of qemu-io. Throws Error.
void write_commands(const job::RequestLoad& load, const std::string& path) {
  std::string text;
  for (uint64_t i = 0; i < load.count; ++i) {
    const uint64_t offset = job::offset_of_request(load, i);
    fmt::format_to(std::back_inserter(text), "{} -q {} {}\n", load.write ? "aio_write" : "aio_read", offset,
                   load.request_bytes);
    if ((i + 1) % QemuPeer::kMostInFlight == 0) text += "aio_flush\n";
  }
  text += "aio_flush\n";
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  if (!file.flush()) fail(ErrorKind::kIo, "cannot write '{}'", path);
}

// qemu-io succeeds whatever becomes of its asynchronous requests, but tells of those that failed.
double seconds_of_requests(const ChildCommand& command) {
  const ChildResult result = run_child_well(command);
  const size_t failed = result.output.find("failed");
  if (failed != std::string::npos)
    fail(ErrorKind::kIo, "'{}': a request {}", command.program, first_line(result.output.substr(failed)));
  return result.seconds;
}

}  // namespace

QemuPeer::QemuPeer(const std::string& qemu_img)
    : qemu_img_(qemu_img), qemu_io_(beside(qemu_img)), version_(version_of(qemu_img)) {
  version_of(qemu_io_);
  if (version_.contains("(cofre"))
    fail(ErrorKind::kInvalidArgument, "'{}' is Cofre itself under that name: give the path of QEMU's",
         qemu_img);
}

double QemuPeer::convert(const std::string& secret, const std::string& source,
                         const std::string& target) const {
  return run_child_well({.program = qemu_img_,
                         .arguments = {"convert", "--object", secret, "-n", "-W", "-m", "16", "-t", "unsafe",
                                       "--image-opts", "--target-image-opts", source, target}})
      .seconds;
}

double QemuPeer::send_plain(const job::RequestLoad& load, const std::string& image) const {
  std::vector<std::string> arguments = {"bench",
                                        "-t",
                                        "unsafe",
                                        "-c",
                                        std::to_string(load.count),
                                        "-d",
                                        std::to_string(load.in_flight),
                                        "-s",
                                        std::to_string(load.request_bytes),
                                        "-S",
                                        std::to_string(load.step_bytes)};
  if (load.write) arguments.insert(arguments.end(), {"-w", "--pattern=1"});
  arguments.insert(arguments.end(), {"--image-opts", image});
  const ChildResult result = run_child_well({.program = qemu_img_, .arguments = std::move(arguments)});
  constexpr std::string_view kBefore = "Run completed in ";
  const size_t at = result.output.find(kBefore);
  if (at == std::string::npos)
    fail(ErrorKind::kIo, "'{} bench' does not tell how long it took: {}", qemu_img_, result.output);
  return std::strtod(result.output.c_str() + at + kBefore.size(), nullptr);
}

double QemuPeer::send(const job::RequestLoad& load, const std::string& secret, const std::string& image,
                      const std::string& commands_path) const {
  write_commands(load, commands_path);
  return seconds_of_requests({.program = qemu_io_,
                              .arguments = {"--object", secret, "-t", "unsafe", "--image-opts", image},
                              .input_path = commands_path});
}

double QemuPeer::send_to_null(const job::RequestLoad& load, const std::string& commands_path) const {
  write_commands(load, commands_path);
  return seconds_of_requests(
      {.program = qemu_io_,
       .arguments = {"--image-opts", fmt::format("driver=null-co,size={},read-zeroes=off", load.span_bytes)},
       .input_path = commands_path});
}

}  // namespace cofre::tool

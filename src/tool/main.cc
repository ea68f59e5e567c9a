// The program: starts the command that its name and arguments ask for, and tells errors to the user.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include "base/error.h"
#include "crypto/aes/select.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/session.h"
#include "tool/terminal.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

struct CommandEntry {
  std::string_view name;
  std::string_view text;
  CommandFunction function;
  bool in_qemu_img;
};

constexpr auto kCommands = std::to_array<CommandEntry>({
    {"create", "an empty image, encrypted if asked to", run_create, true},
    {"convert", "copy an image into another format: encrypt it, decrypt it", run_convert, true},
    {"info", "what an image is", run_info, true},
    {"check", "is a qcow2 image sound? Repair it", run_check, true},
    {"audit", "what did encryption miss in an image? Wipe it", run_audit, false},
    {"compare", "do two images show the same bytes?", run_compare, true},
    {"amend", "change passphrases and options of an image", run_amend, true},
    {"measure", "how large a new image's file will be", run_measure, true},
    {"resize", "give an image another size", run_resize, true},
    {"dd", "copy a part of an image into a new one", run_dd, true},
    {"map", "where the content of an image lies", run_map, true},
    {"rebase", "give an image another backing file, or none", run_rebase, true},
    {"commit", "write an image's changes into its backing file", run_commit, true},
    {"bitmap", "change the dirty bitmaps of a qcow2 image", run_bitmap, true},
    {"snapshot", "internal snapshots of a qcow2 image: list, create, apply, delete", run_snapshot, true},
    {"serve", "offer images to NBD clients, virtual machines and, as files, to programs", run_serve, false},
    {"ctl", "ask a running server, or tell it what to do", run_ctl, false},
    {"doctor", "what is right and wrong with this host, an image, a domain", run_doctor, false},
    {"io", "read and write parts of an image, for scripts and tests", run_io, false},
    {"bench", "how fast an image, or encryption on this machine, is", run_bench, true},
    {"witness", "which AES instructions does a program really execute?", run_witness, false},
});

// Passphrases and keys are in memory: no core dump, no debugger of another process of the user.
void harden_process() {
#if !__has_feature(address_sanitizer)  // whose leak checker is such a debugger
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

// A standard stream that is closed must not become an image's descriptor, for what is printed would go there.
// Its place is held so that using it fails as before.
void hold_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) return;
  }
}

Session session_of(const char* argument0) {
  const std::string_view path = argument0 != nullptr ? argument0 : "";
  const std::string_view name = path.substr(path.rfind('/') + 1);
  if (name == "qemu-img") return {Personality::kQemuImg, "qemu-img"};
  if (name == "qemu-nbd") return {Personality::kQemuNbd, "qemu-nbd"};
  if (name == "qemu-io") return {Personality::kQemuIo, "qemu-io"};
  return {};
}

void print_version(const Session& session) {
  if (session.is_cofre()) {
    fmt::print("cofre {}\nAES kernel: {}\n", kVersion, crypto::selected_aes_kernel().name);
  } else {
    fmt::print("{} version {} (cofre {})\n", session.program, kQemuVersion, kVersion);
  }
}

void print_help(const Session& session) {
  fmt::print("Usage: {} COMMAND [OPTIONS] ...\nEncrypted disk images as fast as plain ones.\n\nCommands:\n",
             session.program);
  for (const CommandEntry& command : kCommands) {
    if (session.is_cofre() || command.in_qemu_img) fmt::print("  {:<9} {}\n", command.name, command.text);
  }
  fmt::print(
      "\nOptions:\n  -h, --help     Show this help and exit; of a command: {0} COMMAND --help\n"
      "  -V, --version  Show the version and exit\n\n"
      "Formats: raw, qcow2 (plain, or encrypted with luks or the legacy aes), luks (LUKS1 containers);\n"
      "for reading vmdk, vdi, vhdx and vpc (VHD) too.\n",
      session.program);
  if (session.is_cofre())
    fmt::print(
        "\nFor example:\n"
        "  cofre convert -O qcow2 -o encrypt.format=luks disk.img safe.qcow2   (asks for a passphrase)\n"
        "  cofre convert -O raw safe.qcow2 disk.img\n"
        "\nAs `qemu-img`, `qemu-io` or `qemu-nbd` (by that name, through a link) the program takes their "
        "options.\n");
}

// qemu-img's "-T EVENTS" before the command is taken for compatibility: there are no events to trace.
void drop_trace(std::vector<std::string>& arguments) {
  while (!arguments.empty()) {
    const std::string& first = arguments[0];
    const bool apart = first == "-T" || first == "--trace";
    const bool joined = !apart && (first.starts_with("-T") || first.starts_with("--trace="));
    if (!joined && (!apart || arguments.size() < 2)) return;
    arguments.erase(arguments.begin(), arguments.begin() + (apart ? 2 : 1));
  }
}

int dispatch(const Session& session, std::vector<std::string> arguments) {
  if (session.personality == Personality::kQemuIo) return run_io(session, arguments);
  if (session.personality == Personality::kQemuNbd) return run_qemu_nbd(session, arguments);
  if (!session.is_cofre()) drop_trace(arguments);
  if (arguments.empty())
    throw UsageError(
        fmt::format("not enough arguments\nTry '{} --help' for more information", session.program));
  const std::string& first = arguments[0];
  if (first == "-h" || first == "--help" || first == "help") {
    print_help(session);
    return 0;
  }
  if (first == "-V" || first == "--version") {
    print_version(session);
    return 0;
  }
  for (const CommandEntry& command : kCommands) {
    if (command.name == first && (session.is_cofre() || command.in_qemu_img))
      return command.function(session, {arguments.begin() + 1, arguments.end()});
  }
  throw UsageError(fmt::format("there is no command '{0}'\nTry '{1} --help' for more information", first,
                               session.program));
}

int complain(const Session& session, std::string_view sentence) {
  std::fflush(stdout);
  tell(fmt::format("{}: {}\n", session.program, sentence));
  return 1;
}

int run(const Session& session, const std::vector<std::string>& arguments) {
  try {
    return dispatch(session, arguments);
  } catch (const Answered&) {
    return 0;
  } catch (const UsageError& error) {
    return complain(session, error.what());
  } catch (const Error& error) {
    const int status = complain(session, error.what());
    return interrupted() ? interrupted_exit_status() : status;
  } catch (const std::bad_alloc&) {
    return complain(session, "out of memory");
  } catch (const std::exception& error) {
    return complain(session, error.what());
  }
}

}  // namespace
}  // namespace cofre::tool

int main(int argc, char** argv) {
  using namespace cofre::tool;
  hold_standard_descriptors();
  // A command that is witnessed inherits limits; and witnessing has no secrets.
  if (argc < 2 || std::string_view(argv[1]) != "witness") harden_process();
  install_interrupt_handlers();
  const Session session = session_of(argc > 0 ? argv[0] : nullptr);
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const int status = run(session, arguments);
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    tell(fmt::format("{}: cannot write to standard output{}{}\n", session.program, errno != 0 ? ": " : "",
                     errno != 0 ? std::strerror(errno) : ""));
    return status != 0 ? status : 1;
  }
  return status;
}

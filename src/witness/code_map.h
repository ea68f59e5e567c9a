// What an ELF file (a program or a library) says of itself before it runs: its AES instructions, the
// functions that they are in, and where its loader can be overheard.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "witness/sweep.h"
#include "witness/trampoline.h"

namespace cofre::witness {

class ElfFile;

struct Segment {
  uint64_t address = 0;  // as the ELF file has it
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;
  uint64_t memory_bytes = 0;
  bool executable = false;
};

struct Function {
  std::string name;  // empty: it has none
  CodeRange range;
};

// A place that the dynamic linker runs through after it has mapped libraries and before their code runs
// (_dl_debug_state, which only returns and exists for debuggers), and its first bytes.
struct LoaderHook {
  uint64_t address = 0;
  JumpCode original = {};
};

struct ModuleCode {
  std::string path;
  bool is_64_bit_x86 = true;  // else nothing below is known
  std::vector<Segment> segments = {};
  std::vector<Function> functions = {};  // those with AES instructions
  std::vector<AesSite> sites = {};       // by address
  size_t unproven = 0;                   // looks like AES inside a function, but may be data
  size_t unbounded = 0;                  // looks like AES outside all known functions
  std::shared_ptr<const ElfFile> symbols = {};
  std::optional<LoaderHook> loader_hook = {};  // when five bytes can be overwritten there
};

// The file's bytes at these addresses; empty when that is not executable code of the file.
ConstBytes code_at(const ElfFile& file, const std::vector<Segment>& segments, const CodeRange& range);

// Reads the ELF file `fd`, which stays open; `path` is for messages and names, and to find separate debug
// information. Throws Error kCorrupt when it is no ELF file.
ModuleCode read_code(int fd, const std::string& path);

}  // namespace cofre::witness

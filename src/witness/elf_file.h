// An ELF file with its symbols, those of separate debug information included (libdwfl).
#pragma once

#include <elfutils/libdwfl.h>
#include <gelf.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace cofre::witness {

struct Symbol {
  const char* name = "";
  uint64_t address = 0;  // as the ELF file has it
  uint64_t length_bytes = 0;
  bool is_local = false;

  uint64_t end() const noexcept { return address + length_bytes; }
};

class ElfFile {
 public:
  // Throws Error kCorrupt when it is no ELF file.
  ElfFile(int fd, const std::string& path);

  Elf* elf() const noexcept { return elf_; }
  // Functions, those without a length too, by address.
  const std::vector<Symbol>& functions() const noexcept { return functions_; }
  // The function around `address`, demangled; empty when no symbol is.
  std::string name_at(uint64_t address) const;

 private:
  void read_functions();

  struct EndDwfl {
    void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
  };
  std::unique_ptr<Dwfl, EndDwfl> dwfl_;
  Dwfl_Module* module_ = nullptr;
  Elf* elf_ = nullptr;
  GElf_Addr bias_ = 0;
  // Large programs have hundreds of thousands, and libdwfl looks through all for each question.
  std::vector<Symbol> functions_ = {};
  std::vector<uint64_t> furthest_end_ = {};  // of the functions up to each
};

}  // namespace cofre::witness

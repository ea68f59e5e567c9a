// An ELF file with its symbols, those of separate debug information included (libdwfl).
#pragma once

#include <elfutils/libdwfl.h>
#include <gelf.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace cofre::witness {

struct Symbol {
  const char* name = "";
  uint64_t address = 0;  // as the ELF file has it
  uint64_t length_bytes = 0;
};

class ElfFile {
 public:
  // Throws Error kCorrupt when it is no ELF file.
  ElfFile(int fd, const std::string& path);

  Elf* elf() const noexcept { return elf_; }
  // Functions, those without a length too.
  void each_function(const std::function<void(const Symbol&)>& visit) const;
  // The function around `address`, demangled; empty when no symbol is.
  std::string name_at(uint64_t address) const;

 private:
  struct EndDwfl {
    void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
  };
  std::unique_ptr<Dwfl, EndDwfl> dwfl_;
  Dwfl_Module* module_ = nullptr;
  Elf* elf_ = nullptr;
  GElf_Addr bias_ = 0;
};

}  // namespace cofre::witness

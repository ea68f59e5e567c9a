#include "witness/elf_file.h"

#include <cxxabi.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"

namespace cofre::witness {
namespace {

// Debug information is looked for on this machine only: dwfl_standard_find_debuginfo would ask servers too.
char* debug_information_path = nullptr;
const Dwfl_Callbacks kCallbacks = {.find_elf = dwfl_build_id_find_elf,
                                   .find_debuginfo = dwfl_build_id_find_debuginfo,
                                   .section_address = dwfl_offline_section_address,
                                   .debuginfo_path = &debug_information_path};

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 && text != nullptr ? text.get() : name;
}

}  // namespace

ElfFile::ElfFile(int fd, const std::string& path) : dwfl_(dwfl_begin(&kCallbacks)) {
  const int own = ::dup(fd);  // libdwfl closes the one it is given
  if (own < 0) fail_errno(errno, "'{}': cannot be read", path);
  module_ = dwfl_ == nullptr ? nullptr : dwfl_report_offline(dwfl_.get(), "", path.c_str(), own);
  if (module_ == nullptr) {
    ::close(own);
    fail(ErrorKind::kCorrupt, "'{}': is no ELF file: {}", path, dwfl_errmsg(-1));
  }
  dwfl_report_end(dwfl_.get(), nullptr, nullptr);
  elf_ = dwfl_module_getelf(module_, &bias_);
  if (elf_ == nullptr) fail(ErrorKind::kCorrupt, "'{}': is no ELF file: {}", path, dwfl_errmsg(-1));
}

void ElfFile::each_function(const std::function<void(const Symbol&)>& visit) const {
  const int count = dwfl_module_getsymtab(module_);
  for (int i = 0; i < count; ++i) {
    GElf_Sym symbol;
    GElf_Addr address = 0;
    GElf_Word section = SHN_UNDEF;
    const char* const name =
        dwfl_module_getsym_info(module_, i, &symbol, &address, &section, nullptr, nullptr);
    const int type = GELF_ST_TYPE(symbol.st_info);
    if (name == nullptr || section == SHN_UNDEF || (type != STT_FUNC && type != STT_GNU_IFUNC)) continue;
    visit({name, address - bias_, symbol.st_size});
  }
}

std::string ElfFile::name_at(uint64_t address) const {
  GElf_Off offset = 0;
  GElf_Sym symbol;
  const char* const name =
      dwfl_module_addrinfo(module_, address + bias_, &offset, &symbol, nullptr, nullptr, nullptr);
  if (name == nullptr || (symbol.st_size != 0 && offset >= symbol.st_size)) return {};
  if (symbol.st_size == 0 && offset != 0) return {};
  return demangled(name);
}

}  // namespace cofre::witness

#include "witness/elf_file.h"

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <tuple>

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
  read_functions();
}

void ElfFile::read_functions() {
  const int count = dwfl_module_getsymtab(module_);
  for (int i = 0; i < count; ++i) {
    GElf_Sym symbol;
    GElf_Addr address = 0;
    GElf_Word section = SHN_UNDEF;
    const char* const name =
        dwfl_module_getsym_info(module_, i, &symbol, &address, &section, nullptr, nullptr);
    const int type = GELF_ST_TYPE(symbol.st_info);
    if (name == nullptr || section == SHN_UNDEF || (type != STT_FUNC && type != STT_GNU_IFUNC)) continue;
    const uint64_t length = std::min<uint64_t>(symbol.st_size, ~uint64_t{0} - (address - bias_));
    functions_.push_back({name, address - bias_, length, GELF_ST_BIND(symbol.st_info) == STB_LOCAL});
  }
  // Of several names of one place the last is what name_at() finds first.
  std::ranges::sort(functions_, [](const Symbol& a, const Symbol& b) {
    return std::tuple(a.address, !a.is_local) < std::tuple(b.address, !b.is_local);
  });
  uint64_t furthest = 0;
  for (const Symbol& function : functions_)
    furthest_end_.push_back(furthest = std::max(furthest, function.end()));
}

std::string ElfFile::name_at(uint64_t address) const {
  const auto behind = std::ranges::upper_bound(functions_, address, {}, &Symbol::address);
  for (auto i = static_cast<size_t>(behind - functions_.begin()); i > 0; --i) {
    const Symbol& function = functions_[i - 1];
    if (address < function.end() || address == function.address) return demangled(function.name);
    if (furthest_end_[i - 1] <= address) return {};
  }
  return {};
}

}  // namespace cofre::witness

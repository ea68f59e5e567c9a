#include "witness/fde_ranges.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <gelf.h>

#include <map>
#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"

namespace cofre::witness {
namespace {

struct Section {
  Elf_Data* data = nullptr;
  uint64_t address = 0;
};

std::optional<Section> eh_frame(Elf* elf) {
  size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0) return std::nullopt;
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
    GElf_Shdr header;
    if (gelf_getshdr(section, &header) == nullptr || header.sh_type == SHT_NOBITS) continue;
    const char* name = elf_strptr(elf, names, header.sh_name);
    if (name == nullptr || std::string_view(name) != ".eh_frame") continue;
    Elf_Data* const data = elf_rawdata(section, nullptr);
    if (data != nullptr && data->d_buf != nullptr) return Section{data, header.sh_addr};
  }
  return std::nullopt;
}

// Bytes of a pointer of this encoding; 0 for one that .eh_frame of x86-64 does not use.
size_t encoded_size(uint8_t encoding) {
  switch (encoding & 0x0f) {
    case DW_EH_PE_absptr:
    case DW_EH_PE_udata8:
    case DW_EH_PE_sdata8:
      return 8;
    case DW_EH_PE_udata4:
    case DW_EH_PE_sdata4:
      return 4;
    case DW_EH_PE_udata2:
    case DW_EH_PE_sdata2:
      return 2;
    default:
      return 0;
  }
}

uint64_t load_encoded(const uint8_t* from, uint8_t encoding) {
  const bool is_signed = (encoding & 0x08) != 0;
  switch (encoded_size(encoding)) {
    case 8:
      return load_le<uint64_t>(from);
    case 4: {
      const auto value = load_le<uint32_t>(from);
      return is_signed ? static_cast<uint64_t>(int64_t{static_cast<int32_t>(value)}) : value;
    }
    default: {
      const auto value = load_le<uint16_t>(from);
      return is_signed ? static_cast<uint64_t>(int64_t{static_cast<int16_t>(value)}) : value;
    }
  }
}

// How the FDEs of a CIE write their addresses: the letter R of its augmentation.
std::optional<uint8_t> address_encoding(const Dwarf_CIE& cie) {
  const std::string_view augmentation = cie.augmentation != nullptr ? cie.augmentation : "";
  if (augmentation.empty()) return uint8_t{DW_EH_PE_absptr};
  if (augmentation[0] != 'z' || cie.augmentation_data == nullptr) return std::nullopt;
  std::span<const uint8_t> data(cie.augmentation_data, cie.augmentation_data_size);
  for (const char letter : augmentation.substr(1)) {
    if (letter == 'S' || letter == 'B') continue;  // no data
    if (data.empty()) return std::nullopt;
    if (letter == 'R') return data[0];
    const size_t skip = letter == 'P' ? 1 + encoded_size(data[0]) : 1;
    if ((letter != 'P' && letter != 'L') || skip > data.size()) return std::nullopt;
    data = data.subspan(skip);
  }
  return uint8_t{DW_EH_PE_absptr};
}

std::optional<CodeRange> range_of(const Dwarf_FDE& fde, uint8_t encoding, const Section& section) {
  const size_t size = encoded_size(encoding);
  const uint8_t application = encoding & 0x70;
  if (size == 0 || (application != DW_EH_PE_pcrel && application != DW_EH_PE_absptr) ||
      (encoding & DW_EH_PE_indirect) != 0 || static_cast<size_t>(fde.end - fde.start) < 2 * size)
    return std::nullopt;
  uint64_t start = load_encoded(fde.start, encoding);
  if (application == DW_EH_PE_pcrel)
    start +=
        section.address + static_cast<uint64_t>(fde.start - static_cast<const uint8_t*>(section.data->d_buf));
  const uint64_t length = load_encoded(fde.start + size, encoding & 0x07);
  if (start == 0 || length == 0 || start + length < start) return std::nullopt;
  return CodeRange{start, start + length};
}

}  // namespace

std::vector<CodeRange> fde_ranges(Elf* elf) {
  std::vector<CodeRange> ranges;
  const auto section = eh_frame(elf);
  const char* const ident = elf_getident(elf, nullptr);
  if (!section || ident == nullptr) return ranges;
  std::map<Dwarf_Off, std::optional<uint8_t>> encodings;  // of the CIEs, by their offsets
  Dwarf_Off next = 0;
  for (Dwarf_Off at = 0; at != static_cast<Dwarf_Off>(-1); at = next) {
    Dwarf_CFI_Entry entry = {};
    next = static_cast<Dwarf_Off>(-1);
    const int status =
        dwarf_next_cfi(reinterpret_cast<const unsigned char*>(ident), section->data, true, at, &next, &entry);
    if (status != 0) continue;  // a damaged entry is left out
    if (dwarf_cfi_cie_p(&entry)) {
      encodings[at] = address_encoding(entry.cie);
      continue;
    }
    const auto encoding = encodings.find(entry.fde.CIE_pointer);
    if (encoding == encodings.end() || !encoding->second) continue;
    if (const auto range = range_of(entry.fde, *encoding->second, *section)) ranges.push_back(*range);
  }
  return ranges;
}

}  // namespace cofre::witness

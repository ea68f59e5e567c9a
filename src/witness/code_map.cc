#include "witness/code_map.h"

#include <gelf.h>

#include <algorithm>
#include <set>

#include "base/checked.h"
#include "base/error.h"
#include "witness/elf_file.h"

namespace cofre::witness {
namespace {

// The file's bytes at addresses.
class Text {
 public:
  Text(const ElfFile& file, const std::vector<Segment>& segments) : file_(file), segments_(segments) {}
  ConstBytes at(const CodeRange& range) const { return code_at(file_, segments_, range); }

 private:
  const ElfFile& file_;
  const std::vector<Segment>& segments_;
};

std::vector<Segment> loaded_segments(Elf* elf) {
  std::vector<Segment> segments;
  size_t count = 0;
  if (elf_getphdrnum(elf, &count) != 0) return segments;
  for (size_t i = 0; i < count; ++i) {
    GElf_Phdr header;
    if (gelf_getphdr(elf, static_cast<int>(i), &header) == nullptr || header.p_type != PT_LOAD) continue;
    segments.push_back(
        {header.p_vaddr, header.p_offset, header.p_filesz, header.p_memsz, (header.p_flags & PF_X) != 0});
  }
  return segments;
}

// Overlapping ranges become one stretch with several entries.
std::vector<Stretch> stretches(const ElfFile& file, const Text& text) {
  std::vector<CodeRange> ranges = fde_ranges(file.elf());
  for (const Symbol& symbol : file.functions())
    if (symbol.length_bytes != 0) ranges.push_back({symbol.address, symbol.end()});
  std::ranges::sort(ranges, {}, &CodeRange::start);
  std::vector<Stretch> joined;
  for (const CodeRange& range : ranges) {
    if (text.at(range).empty()) continue;
    if (joined.empty() || range.start >= joined.back().range.end) joined.push_back({.range = range});
    Stretch& last = joined.back();
    last.range.end = std::max(last.range.end, range.end);
    last.entries.push_back(range.start);
  }
  for (Stretch& stretch : joined) stretch.bytes = text.at(stretch.range);
  std::erase_if(joined, [](const Stretch& stretch) { return stretch.bytes.empty(); });
  return joined;
}

// Local labels of hand-written code that only another function jumps to.
void add_entries_from_elsewhere(const std::vector<Stretch>& all, std::vector<Stretch*>& wanted) {
  std::set<uint64_t> targets;
  for (const Stretch& stretch : all) {
    const std::vector<uint64_t> found = targets_outside(stretch);
    targets.insert(found.begin(), found.end());
  }
  for (Stretch* const stretch : wanted) {
    const auto first = targets.lower_bound(stretch->range.start);
    const auto last = targets.lower_bound(stretch->range.end);
    stretch->entries.insert(stretch->entries.end(), first, last);
  }
}

std::vector<Stretch*> candidates(std::vector<Stretch>& all) {
  std::vector<Stretch*> found;
  for (Stretch& stretch : all)
    if (may_hold_aes(stretch.bytes)) found.push_back(&stretch);
  return found;
}

void take(ModuleCode& code, const ElfFile& file, const Stretch& stretch) {
  Swept swept = sweep(stretch);
  const size_t first_function = code.functions.size();
  for (AesSite& site : swept.sites) {
    std::string name = file.name_at(site.address);
    if (code.functions.size() == first_function || code.functions.back().name != name)
      code.functions.push_back({std::move(name), stretch.range});
    site.function = static_cast<uint32_t>(code.functions.size() - 1);
    code.sites.push_back(site);
  }
  code.unproven += swept.unproven;
}

// A second look where AES was read that nothing known leads to.
void sweep_all(ModuleCode& code, const ElfFile& file, std::vector<Stretch>& all) {
  std::vector<Stretch*> wanted = candidates(all);
  if (std::ranges::any_of(wanted, [](const Stretch* stretch) { return sweep(*stretch).unproven != 0; }))
    add_entries_from_elsewhere(all, wanted);
  for (const Stretch* const stretch : wanted) take(code, file, *stretch);
}

size_t count_aes(ConstBytes bytes) {
  if (!may_hold_aes(bytes)) return 0;
  size_t count = 0;
  for (size_t at = 0; at < bytes.size();) {
    const auto instruction = decode(bytes.subspan(at), at);
    const bool aes = instruction && instruction->aes;
    count += aes ? 1 : 0;
    at += aes ? instruction->length : 1;
  }
  return count;
}

size_t count_outside(const std::vector<Segment>& segments, const Text& text,
                     const std::vector<Stretch>& all) {
  size_t count = 0;
  for (const Segment& segment : segments) {
    uint64_t at = segment.address;
    const uint64_t end = segment.address + segment.file_bytes;
    for (const Stretch& stretch : all) {
      if (stretch.range.start < at || stretch.range.start >= end) continue;
      count += count_aes(text.at({at, stretch.range.start}));
      at = stretch.range.end;
    }
    count += count_aes(text.at({at, end}));
  }
  return count;
}

// A function that only returns, and enough padding behind it.
bool fits_hook(ConstBytes bytes, uint64_t address) {
  constexpr uint32_t kEndbr64 = 0xfa1e0ff3;
  constexpr std::byte kRet{0xc3};
  size_t at = bytes.size() >= 4 && load_le<uint32_t>(bytes.data()) == kEndbr64 ? 4 : 0;
  if (at >= bytes.size() || bytes[at] != kRet) return false;
  ++at;
  while (at < kJumpBytes) {
    const auto instruction = decode(bytes.subspan(at), address + at);
    if (!instruction || !instruction->padding) return false;
    at += instruction->length;
  }
  return true;
}

std::optional<LoaderHook> loader_hook(const ElfFile& file, const Text& text) {
  constexpr uint64_t kLook = kJumpBytes + kLongestInstruction;
  for (const Symbol& symbol : file.functions()) {
    if (std::string_view(symbol.name) != "_dl_debug_state") continue;
    const ConstBytes bytes = text.at({symbol.address, symbol.address + kLook});
    if (bytes.empty() || !fits_hook(bytes, symbol.address)) continue;
    LoaderHook hook = {.address = symbol.address};
    std::ranges::copy(bytes.first(kJumpBytes), hook.original.begin());
    return hook;
  }
  return std::nullopt;
}

}  // namespace

ConstBytes code_at(const ElfFile& file, const std::vector<Segment>& segments, const CodeRange& range) {
  size_t length = 0;
  const char* const raw = elf_rawfile(file.elf(), &length);
  if (raw == nullptr) return {};
  const ConstBytes bytes(reinterpret_cast<const std::byte*>(raw), length);
  for (const Segment& segment : segments) {
    if (!segment.executable || range.start < segment.address || range.end < range.start ||
        !range_within(range.start - segment.address, range.end - range.start, segment.file_bytes) ||
        !range_within(segment.file_offset, segment.file_bytes, bytes.size()))
      continue;
    return bytes.subspan(segment.file_offset + (range.start - segment.address), range.end - range.start);
  }
  return {};
}

ModuleCode read_code(int fd, const std::string& path) {
  const auto opened = std::make_shared<const ElfFile>(fd, path);
  const ElfFile& file = *opened;
  ModuleCode code;
  code.symbols = opened;
  code.path = path;
  GElf_Ehdr header;
  code.is_64_bit_x86 = gelf_getehdr(file.elf(), &header) != nullptr && header.e_machine == EM_X86_64 &&
                       header.e_ident[EI_CLASS] == ELFCLASS64;
  if (!code.is_64_bit_x86) return code;
  code.segments = loaded_segments(file.elf());
  const Text text(file, code.segments);
  std::vector<Stretch> all = stretches(file, text);
  sweep_all(code, file, all);
  code.unbounded = count_outside(code.segments, text, all);
  code.loader_hook = loader_hook(file, text);
  return code;
}

}  // namespace cofre::witness

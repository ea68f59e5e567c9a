#include "witness/instruction.h"

#include <Zydis/Zydis.h>

namespace cofre::witness {
namespace {

const ZydisDecoder& decoder() {
  static const ZydisDecoder made = [] {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return decoder;
  }();
  return made;
}

std::optional<AesOperation> aes_operation(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_AESENC:
    case ZYDIS_MNEMONIC_VAESENC:
      return AesOperation::kEnc;
    case ZYDIS_MNEMONIC_AESENCLAST:
    case ZYDIS_MNEMONIC_VAESENCLAST:
      return AesOperation::kEncLast;
    case ZYDIS_MNEMONIC_AESDEC:
    case ZYDIS_MNEMONIC_VAESDEC:
      return AesOperation::kDec;
    case ZYDIS_MNEMONIC_AESDECLAST:
    case ZYDIS_MNEMONIC_VAESDECLAST:
      return AesOperation::kDecLast;
    case ZYDIS_MNEMONIC_AESIMC:
    case ZYDIS_MNEMONIC_VAESIMC:
      return AesOperation::kImc;
    case ZYDIS_MNEMONIC_AESKEYGENASSIST:
    case ZYDIS_MNEMONIC_VAESKEYGENASSIST:
      return AesOperation::kKeygenAssist;
    default:
      return std::nullopt;
  }
}

void set_aes(const ZydisDecodedInstruction& decoded, AesOperation operation, Instruction& into) {
  const auto& raw = decoded.raw;
  switch (decoded.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:  // prefixes hold register bits inverted
      into.aes = {operation, Encoding::kVex, static_cast<uint16_t>(raw.vex.L != 0 ? 256 : 128)};
      into.destination = static_cast<uint8_t>(raw.modrm.reg | (raw.vex.R != 0 ? 0 : 8));
      break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
      into.aes = {operation, Encoding::kEvex, static_cast<uint16_t>(128 << (raw.evex.L2 << 1 | raw.evex.L))};
      into.destination =
          static_cast<uint8_t>(raw.modrm.reg | (raw.evex.R != 0 ? 0 : 8) | (raw.evex.R2 != 0 ? 0 : 16));
      break;
    default:
      into.aes = {operation, Encoding::kLegacy, 128};
      into.destination = static_cast<uint8_t>(raw.modrm.reg | raw.rex.R << 3);
  }
}

Flow flow_of(const ZydisDecodedInstruction& decoded) {
  const bool direct = decoded.raw.imm[0].is_relative != 0;
  switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
      return Flow::kBranch;
    case ZYDIS_CATEGORY_UNCOND_BR:
      return direct ? Flow::kJump : Flow::kIndirectJump;
    case ZYDIS_CATEGORY_CALL:
      return Flow::kCall;
    case ZYDIS_CATEGORY_RET:
      return Flow::kEnd;
    default:
      break;
  }
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INT3:
      return Flow::kEnd;
    default:
      return Flow::kNext;
  }
}

}  // namespace

std::optional<Instruction> decode(ConstBytes bytes, uint64_t address) noexcept {
  ZydisDecodedInstruction decoded;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder(), nullptr, bytes.data(), bytes.size(), &decoded)))
    return std::nullopt;
  Instruction found;
  found.length = decoded.length;
  found.flow = flow_of(decoded);
  found.padding = decoded.mnemonic == ZYDIS_MNEMONIC_NOP || decoded.mnemonic == ZYDIS_MNEMONIC_INT3;
  if (decoded.raw.imm[0].is_relative != 0)
    found.target = address + decoded.length + static_cast<uint64_t>(decoded.raw.imm[0].value.s);
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0 && decoded.raw.modrm.mod == 0 &&
      decoded.raw.modrm.rm == 5)
    found.rip_offset = decoded.raw.disp.offset;
  if (const auto operation = aes_operation(decoded.mnemonic)) set_aes(decoded, *operation, found);
  return found;
}

bool may_hold_aes(ConstBytes bytes) noexcept {
  const auto at = [&](size_t index) { return std::to_integer<uint8_t>(bytes[index]); };
  for (size_t i = 2; i < bytes.size(); ++i) {
    const uint8_t opcode = at(i);
    if (opcode < 0xdb || opcode > 0xdf) continue;
    if (at(i - 2) == 0x0f && (at(i - 1) == 0x38 || at(i - 1) == 0x3a)) return true;
    if (i >= 3 && at(i - 3) == 0xc4) return true;
    if (i >= 4 && at(i - 4) == 0x62) return true;
  }
  return false;
}

}  // namespace cofre::witness

// The report of `cofre witness` as people and as programs read it.
#pragma once

#include <string>

#include "witness/report.h"

namespace cofre::tool {

std::string witness_report_as_text(const witness::Report& report, const witness::CpuAes& cpu);
// Its keys are described in cofre-witness(1).
std::string witness_report_as_json(const witness::Report& report, const witness::CpuAes& cpu);

}  // namespace cofre::tool

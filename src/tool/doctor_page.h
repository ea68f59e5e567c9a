// The doctor's findings as a page for people.
#pragma once

#include <string>
#include <vector>

#include "doctor/finding.h"
#include "doctor/speeds.h"

namespace cofre::tool {

// Readable without colours. What is not printable in names from outside becomes '?'.
std::string doctor_page(const std::vector<doctor::Section>& sections,
                        const std::vector<doctor::KernelSpeed>& speeds, bool colours);

}  // namespace cofre::tool

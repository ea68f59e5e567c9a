// The witness on processors whose instructions it does not know.
#include "base/error.h"
#include "witness/witness.h"

namespace cofre::witness {

Report watch(const Options&) {
  fail(ErrorKind::kUnsupported, "witness understands x86-64 programs only, on an x86-64 machine");
}

Report sample(const Options&) {
  fail(ErrorKind::kUnsupported, "witness understands x86-64 programs only, on an x86-64 machine");
}

}  // namespace cofre::witness

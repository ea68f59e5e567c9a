// What another NBD server offers, as `qemu-nbd --list` prints it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "storage/nbd.h"

namespace cofre::tool {

struct NbdListAddress {
  std::string unix_path = {};  // or
  std::string host = {};
  std::string port = {};
};

// Prints to standard output. Throws Error.
void print_nbd_list(const NbdListAddress& address, const std::optional<storage::NbdTls>& tls);

}  // namespace cofre::tool

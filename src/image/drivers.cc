#include "image/drivers.h"

#include <algorithm>
#include <array>

namespace cofre::image {
namespace {

constexpr std::array kDrivers = {
    Driver{"file", DriverKind::kStorage, ""},
    Driver{"host_device", DriverKind::kStorage, ""},
    Driver{"nbd", DriverKind::kStorage, ""},
    Driver{"null-co", DriverKind::kStorage, ""},
    Driver{"null-aio", DriverKind::kStorage, ""},
    Driver{"throttle", DriverKind::kFilter, "file"},
    Driver{"copy-on-read", DriverKind::kFilter, "file"},
    Driver{"blkdebug", DriverKind::kFilter, "image"},
    Driver{"blkverify", DriverKind::kFilter, "test"},
};

}  // namespace

const Driver* find_driver(std::string_view name) noexcept {
  const auto found = std::ranges::find(kDrivers, name, &Driver::name);
  return found == kDrivers.end() ? nullptr : &*found;
}

std::string driver_names() {
  std::string names = "raw, qcow2, luks, vmdk, vdi, vhdx, vpc";
  for (const Driver& driver : kDrivers) names.append(", ").append(driver.name);
  return names;
}

}  // namespace cofre::image

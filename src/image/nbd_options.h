// The options of driver nbd, and how an export is named from them. Any lane.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "image/objects.h"
#include "image/options.h"
#include "storage/nbd.h"

namespace cofre::image {

// All but read_only and name. Throws Error kInvalidArgument, kNotFound for credentials, kUnsupported.
storage::NbdOptions take_nbd_options(Options& options, const Objects& objects);

// "nbd+unix:///export?socket=PATH" or "nbd://host:port/export" as QEMU shows them, whatever else the options
// say.
std::string nbd_filename(const storage::NbdOptions& options);
// As json: names have it.
nlohmann::ordered_json nbd_description(const Options& options);

}  // namespace cofre::image

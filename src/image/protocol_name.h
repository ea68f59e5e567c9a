// Names with a protocol before a colon, as QEMU writes them in place of a path: "nbd://host/export",
// "blkdebug:CONFIG:FILE". Any lane.
#pragma once

#include <string>
#include <string_view>

#include "image/options.h"

namespace cofre::image {

// What stands before a colon in the first part of a name: "nbd" of "nbd://host/x". Empty: a path.
std::string_view protocol_of(std::string_view name);

// The options of the storage that `name`, a path or a protocol's name, stands for, with its "driver":
//   PATH, file:PATH             driver=file
//   host_device:PATH            driver=host_device
//   nbd://HOST[:PORT]/[EXPORT], nbd+tcp://..., nbd+unix:///[EXPORT]?socket=PATH,
//   nbd:HOST:PORT[:exportname=EXPORT], nbd:unix:PATH[:exportname=EXPORT]         driver=nbd
//   nbds://..., nbds+unix://...  the same; needs tls-creds
//   null-co://, null-aio://     driver=null-co, null-aio
//   blkdebug:[CONFIG]:NAME      driver=blkdebug
//   blkverify:RAW:IMAGE         driver=blkverify
// Throws Error kInvalidArgument, kUnsupported for a protocol that there is not.
Options parse_protocol_name(const std::string& name);

}  // namespace cofre::image

// Opens the nodes where bytes rest. Home lane; opening blocks it shortly.
//
//   file, host_device   filename=PATH, locking=auto|on|off, aio=threads|native|io_uring
//   nbd                 server.type=unix|inet, server.path= or server.host=, server.port= (or path=, host=,
//   port=),
//                       export=NAME, tls-creds=ID, reconnect-delay=SECONDS, open-timeout=SECONDS,
//                       x-dirty-bitmap=CONTEXT
//   null-co, null-aio   size=BYTES, read-zeroes=on|off, latency-ns=NANOSECONDS
#pragma once

#include "image/node.h"

namespace cofre::image {

// `driver` is a storage driver; `options` are its own, all of them: what is left over is refused. Throws
// Error.
Node open_storage_driver(const std::string& driver, Options options, const NodeOptions& node,
                         const OpenPolicy& policy);

}  // namespace cofre::image

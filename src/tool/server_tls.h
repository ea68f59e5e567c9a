// The objects that a server needs for TLS, as QEMU names them.
//
//   tls-creds-x509,id=ID,endpoint=server,dir=FOLDER[,verify-peer=on|off][,passwordid=SECRET]
//   tls-creds-psk,id=ID,endpoint=server,dir=FOLDER
//   authz-simple,id=ID,identity=DISTINGUISHED-NAME
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export/nbd/tls.h"
#include "image/secrets.h"

namespace cofre::tool {

// Whether --object text is one of these.
bool is_server_object(const std::string& object);

// The credentials `creds_id`, and who is let in (`authz_id`). Throws Error.
std::shared_ptr<const nbd::TlsCredentials> server_tls(const std::vector<std::string>& objects,
                                                      const std::string& creds_id,
                                                      const std::optional<std::string>& authz_id,
                                                      const image::Secrets& secrets);

}  // namespace cofre::tool

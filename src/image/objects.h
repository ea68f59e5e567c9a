// The objects of --object other than secrets, which images refer to by id. Belongs to one thread.
//
//   tls-creds-x509,id=ID,dir=FOLDER[,verify-peer=on|off][,endpoint=client]
//   tls-creds-psk,id=ID,dir=FOLDER[,username=NAME][,endpoint=client]      the key in FOLDER/keys.psk
//   throttle-group,id=ID[,x-bps-total=N][,x-iops-read-max=N]...           or limits.bps-total=N, ...
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "image/options.h"
#include "layer/throttle.h"
#include "storage/nbd.h"

namespace cofre::image {

class Objects {
 public:
  static bool knows(std::string_view type) noexcept;
  // `properties` without type and id. Throws Error kInvalidArgument for bad ones, kUnsupported.
  void add(std::string_view type, const std::string& id, Options properties);
  bool has(std::string_view id) const { return tls_.contains(id) || groups_.contains(id); }

  // Throws Error kNotFound.
  const storage::NbdTls& tls_credentials(std::string_view id) const;
  std::shared_ptr<layer::ThrottleGroup> throttle_group(std::string_view id) const;

 private:
  std::map<std::string, storage::NbdTls, std::less<>> tls_;
  std::map<std::string, std::shared_ptr<layer::ThrottleGroup>, std::less<>> groups_;
};

}  // namespace cofre::image

#include "tool/server_tls.h"

#include "base/error.h"
#include "image/options.h"

namespace cofre::tool {
namespace {

bool is_authorization(const std::string& type) {
  return type.starts_with("authz-");
}

std::shared_ptr<nbd::TlsCredentials> make_credentials(const std::string& type, image::Options properties,
                                                      const image::Secrets& secrets) {
  const std::string what = "--object " + type;
  const std::optional<std::string> folder = properties.take("dir");
  if (!folder || folder->empty()) fail(ErrorKind::kInvalidArgument, "{} needs dir=FOLDER", what);
  if (properties.take("endpoint").value_or("server") != "server")
    fail(ErrorKind::kInvalidArgument, "{}: expecting TLS credentials with a server endpoint", what);
  if (properties.take("priority"))
    fail(ErrorKind::kUnsupported, "{}: priority is not supported; the system's OpenSSL settings count", what);
  properties.take("sanity-check");
  std::shared_ptr<nbd::TlsCredentials> credentials;
  if (type == "tls-creds-psk") {
    properties.take("username");
    credentials = nbd::TlsCredentials::psk(*folder);
  } else if (type == "tls-creds-x509") {
    nbd::X509Settings settings = {.folder = *folder,
                                  .verify_peer = properties.take_bool("verify-peer").value_or(true)};
    if (const auto password = properties.take("passwordid")) settings.key_password = secrets.find(*password);
    credentials = nbd::TlsCredentials::x509(settings);
  } else {
    fail(ErrorKind::kUnsupported, "{} is not supported: tls-creds-x509 and tls-creds-psk are", what);
  }
  properties.take_bool("verify-peer");
  properties.finish(what);
  return credentials;
}

std::string allowed_identity(const std::string& type, image::Options properties) {
  if (type != "authz-simple")
    fail(ErrorKind::kUnsupported, "--object {} is not supported: authz-simple is", type);
  const std::optional<std::string> identity = properties.take("identity");
  if (!identity) fail(ErrorKind::kInvalidArgument, "--object authz-simple needs identity=NAME");
  properties.finish("--object authz-simple");
  return *identity;
}

}  // namespace

bool is_server_object(const std::string& object) {
  image::Options properties = image::parse_object(object);
  const std::string type = properties.take("qom-type").value_or("");
  if (is_authorization(type)) return true;
  return type.starts_with("tls-creds-") && properties.take("endpoint").value_or("client") == "server";
}

std::shared_ptr<const nbd::TlsCredentials> server_tls(const std::vector<std::string>& objects,
                                                      const std::string& creds_id,
                                                      const std::optional<std::string>& authz_id,
                                                      const image::Secrets& secrets) {
  std::shared_ptr<nbd::TlsCredentials> credentials;
  std::optional<std::string> identity;
  for (const std::string& object : objects) {
    image::Options properties = image::parse_object(object);
    const std::string type = properties.take("qom-type").value_or("");
    const std::string id = properties.take("id").value_or("");
    if (!is_authorization(type) && id == creds_id)
      credentials = make_credentials(type, std::move(properties), secrets);
    else if (is_authorization(type) && id == authz_id)
      identity = allowed_identity(type, std::move(properties));
  }
  if (!credentials) {
    if (secrets.objects().has(creds_id))
      fail(ErrorKind::kInvalidArgument, "Expecting TLS credentials with a server endpoint: '{}'", creds_id);
    fail(ErrorKind::kNotFound, "No TLS credentials with id '{}'", creds_id);
  }
  if (authz_id && !identity) fail(ErrorKind::kNotFound, "No authorization object with id '{}'", *authz_id);
  if (identity) credentials->allow_only(*identity);
  return credentials;
}

}  // namespace cofre::tool

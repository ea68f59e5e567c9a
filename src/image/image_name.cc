#include "image/image_name.h"

#include "base/error.h"

namespace cofre::image {
namespace {

constexpr std::string_view kJson = "json:";
constexpr std::string_view kFile = "file:";

// What stands before a colon in the first part of a path: "nbd" of "nbd://host/x", "rbd" of "rbd:pool/image".
std::string_view protocol_of(std::string_view text) {
  const size_t colon = text.find_first_of(":/");
  return colon != std::string_view::npos && colon > 0 && text[colon] == ':' ? text.substr(0, colon)
                                                                            : std::string_view();
}

bool is_file_driver(std::string_view driver) {
  return driver == "file" || driver == "host_device";
}

}  // namespace

ImageName image_name_of(Options options, const std::string& text) {
  ImageName image{.text = text, .options = {}, .format = std::nullopt};
  const std::optional<std::string> driver = options.take("driver");
  if (driver && is_file_driver(*driver)) {
    // A bare file is a raw image of it.
    const std::optional<std::string> path = options.take("filename");
    options.finish(fmt::format("'{}': driver {}", text, *driver));
    if (!path) fail(ErrorKind::kInvalidArgument, "'{}': driver {} needs filename=PATH", text, *driver);
    options.set("file.filename", *path);
    image.format = Format::kRaw;
  } else if (driver) {
    image.format = parse_format(*driver);
  }
  image.options = std::move(options);
  return image;
}

ImageName parse_image_name(const std::string& text, std::optional<Format> format) {
  if (text.starts_with(kJson)) {
    ImageName image = image_name_of(Options::parse_json(std::string_view(text).substr(kJson.size())), text);
    if (format && image.format && *format != *image.format)
      fail(ErrorKind::kInvalidArgument, "'{}' says driver {}, but format {} was asked for", text,
           format_name(*image.format), format_name(*format));
    if (format) image.format = format;
    return image;
  }
  if (text.empty()) fail(ErrorKind::kInvalidArgument, "the name of the image is empty");
  const std::string_view protocol = protocol_of(text);
  if (!protocol.empty() && !text.starts_with(kFile))
    fail(ErrorKind::kUnsupported,
         "'{}': protocol '{}' is not supported; for a file of that name write './{}'", text, protocol, text);
  return image_name_of_file(text.starts_with(kFile) ? text.substr(kFile.size()) : text, format);
}

ImageName image_name_of_file(const std::string& path, std::optional<Format> format) {
  ImageName image{.text = path, .options = {}, .format = format};
  image.options.set("file.filename", path);
  return image;
}

ImageName parse_image_options(const std::string& text) {
  return image_name_of(Options::parse_list(text), text);
}

std::string resolve_beside(const std::string& overlay_path, const std::string& name) {
  if (name.starts_with('/') || !protocol_of(name).empty()) return name;
  const size_t slash = overlay_path.rfind('/');
  return slash == std::string::npos ? name : overlay_path.substr(0, slash + 1) + name;
}

}  // namespace cofre::image

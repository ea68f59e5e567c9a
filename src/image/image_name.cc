#include "image/image_name.h"

#include "base/error.h"
#include "image/drivers.h"
#include "image/protocol_name.h"

namespace cofre::image {
namespace {

constexpr std::string_view kJson = "json:";

bool is_driver_key(std::string_view key) {
  return key == "driver" || key.ends_with(".driver");
}

void refuse_in_header(const std::string& text, std::string_view driver) {
  if (find_format(driver) || driver == "file" || driver == "host_device") return;
  fail(ErrorKind::kUnsupported,
       "'{}' stands in an image's header, where driver {} is not supported: an image opens no connection by "
       "itself. If you trust it, name it with backing.* (or data-file.*) options",
       text, driver);
}

}  // namespace

ImageName parse_header_name(const std::string& text, std::optional<Format> format) {
  ImageName image = parse_image_name(text, format);
  if (!image.driver.empty()) refuse_in_header(text, image.driver);
  for (const auto& [key, value] : image.options.values())
    if (is_driver_key(key)) refuse_in_header(text, value);
  return image;
}

ImageName image_name_of(Options options, const std::string& text) {
  ImageName image{.text = text, .options = {}, .format = std::nullopt};
  if (const std::optional<std::string> driver = options.take("driver")) {
    image.format = find_format(*driver);
    if (!image.format && !is_driver(*driver))
      fail(ErrorKind::kInvalidArgument, "'{}': there is no driver '{}'; there are {}", text, *driver,
           driver_names());
    if (!image.format) image.driver = *driver;
  }
  image.options = std::move(options);
  return image;
}

ImageName parse_image_name(const std::string& text, std::optional<Format> format) {
  if (text.starts_with(kJson)) {
    Options options = Options::parse_json(std::string_view(text).substr(kJson.size()));
    // As in QEMU, what is said beside the name counts.
    if (format) options.set("driver", std::string(format_name(*format)));
    return image_name_of(std::move(options), text);
  }
  if (text.empty()) fail(ErrorKind::kInvalidArgument, "the name of the image is empty");
  ImageName image{.text = text, .options = {}, .format = format};
  Options storage = parse_protocol_name(text);
  const std::optional<std::string> driver = storage.take("driver");
  if (driver != "file") storage.set("driver", *driver);
  for (const auto& [key, value] : storage.values()) image.options.set("file." + key, value);
  return image;
}

ImageName image_name_of_file(const std::string& path, std::optional<Format> format) {
  ImageName image{.text = path, .options = {}, .format = format};
  image.options.set("file.filename", path);
  return image;
}

ImageName parse_image_options(const std::string& text) {
  return image_name_of(Options::parse_list(text, "file"), text);
}

std::string resolve_beside(const std::string& overlay_path, const std::string& name) {
  if (name.starts_with('/') || !protocol_of(name).empty()) return name;
  const size_t slash = overlay_path.rfind('/');
  return slash == std::string::npos ? name : overlay_path.substr(0, slash + 1) + name;
}

}  // namespace cofre::image

#include "tool/probed_raw.h"

#include <fmt/format.h>

#include "tool/terminal.h"

namespace cofre::tool {

void warn_of_probed_raw(const image::OpenedImage& image) {
  const image::Layer& top = image.top();
  if (!top.probed || top.format != image::Format::kRaw) return;
  tell(fmt::format(
      "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
      "         What a guest writes there may look like another format to the next who opens it.\n"
      "         Give the format: -f raw.\n",
      top.path));
}

}  // namespace cofre::tool

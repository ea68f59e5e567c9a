// The rules of driver blkdebug, from options and from its configuration file. Any lane.
//
//   inject-error.N.event=NAME, .state=, .errno=, .sector=, .iotype=, .once=, .immediately=
//   set-state.N.event=NAME, .state=, .new_state=
//   config=PATH          the same in sections: "[inject-error]", then lines like: event = "read_aio"
//   align=, max-transfer=, opt-write-zero=, max-write-zero=, opt-discard=, max-discard=
#pragma once

#include <optional>
#include <string_view>

#include "image/options.h"
#include "layer/blkdebug.h"

namespace cofre::image {

// QEMU's events by name. Some are steps that Cofre does not have: there are such events, and they never come.
bool is_blkdebug_event(std::string_view name) noexcept;
std::optional<block::Event> blkdebug_event(std::string_view name) noexcept;

// Throws Error.
layer::BlkdebugConfig take_blkdebug_options(Options& options);

}  // namespace cofre::image

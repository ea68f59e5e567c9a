// The commands of `cofre io`: qemu-io's, by name. Home lane.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/sync.h"
#include "tool/io_image.h"
#include "tool/io_words.h"
#include "tool/session.h"

namespace cofre::tool {

// What commands work on.
struct IoContext {
  const Session& session;
  image::Secrets& secrets;
  bool image_opts = false;                   // names are options: --image-opts
  std::unique_ptr<IoImage> image = nullptr;  // null: no file is open
  io::TaskGroup requests = {};  // those of aio_read and aio_write, each of which reports for itself
  size_t in_flight = 0;         // of them
  bool quit = false;
};

struct IoCommand {
  std::string_view name;
  std::string_view alias;  // another name, or empty
  size_t least_words;      // after the name
  size_t most_words;
  bool without_file = false;  // can do without an open file
  bool writes = false;        // needs one that is open for writing
  std::string_view usage;     // what follows the name
  std::string_view text;
  std::string_view options;  // as for CommandWords
  // False: the command failed and said so. Throws BadCommand, BadUsage; Error from requests and opening.
  io::task<bool> (*run)(IoContext& context, CommandWords words);
};

// Carries out one line. False: it failed; what went wrong is printed.
io::task<bool> run_io_command(IoContext& context, std::string line);

// Opens the image of the command line or of `open`, and warns before a raw one that nobody called so. False:
// it cannot be opened, which is said on standard error.
io::task<bool> open_io_image(IoContext& context, image::ImageName name, IoOpenOptions options);
// Waits for what is in flight, then closes the image, if one is open. Throws Error.
io::task<void> close_io_image(IoContext& context);

std::span<const IoCommand> io_commands() noexcept;
// Null: there is none.
const IoCommand* find_io_command(std::string_view name) noexcept;

// io_transfer.cc
io::task<bool> run_read(IoContext& context, CommandWords words);
io::task<bool> run_readv(IoContext& context, CommandWords words);
io::task<bool> run_write(IoContext& context, CommandWords words);
io::task<bool> run_writev(IoContext& context, CommandWords words);
io::task<bool> run_aio_read(IoContext& context, CommandWords words);
io::task<bool> run_aio_write(IoContext& context, CommandWords words);
io::task<bool> run_discard(IoContext& context, CommandWords words);

// io_describe.cc
io::task<bool> run_alloc(IoContext& context, CommandWords words);
io::task<bool> run_map(IoContext& context, CommandWords words);
io::task<bool> run_info(IoContext& context, CommandWords words);
io::task<bool> run_length(IoContext& context, CommandWords words);

// io_breakpoints.cc
io::task<bool> run_break(IoContext& context, CommandWords words);
io::task<bool> run_remove_break(IoContext& context, CommandWords words);
io::task<bool> run_resume(IoContext& context, CommandWords words);
io::task<bool> run_wait_break(IoContext& context, CommandWords words);

// "read failed: Input/output error", and for people what it was about.
void print_failure(const IoContext& context, std::string_view what, const Error& error);

}  // namespace cofre::tool

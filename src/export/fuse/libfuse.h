// libfuse's interface for those who have an event loop of their own, in the version this code is written for.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_log.h>
#include <fuse_lowlevel.h>

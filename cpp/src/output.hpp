/// Files that are whole or not there: what a command writes.
///
///     check_output("cat.npy");                 // before the work of making it
///     write_output("cat.npy", bytes);          // all of it and on the disk, or nothing
///
/// The rules are those of runtime/vitaie/runtime/_files.py.
#pragma once

#include <string>
#include <string_view>

namespace vitaie::detail {

/// Refuses an output that cannot be made at `path`.
///
/// \throws Error `E_OUTPUT_PATH` its folder is not there; `E_OUTPUT_EXISTS` something is there.
void check_output(const std::string& path);

/// Writes a new file at `path`. Until it is complete it has no name, or a hidden one where the file
/// system has no unnamed files, so a killed process leaves nothing under `path`.
///
/// \throws Error As `check_output`; `E_DISK` the disk is full, read-only or broken.
void write_output(const std::string& path, std::string_view data);

}  // namespace vitaie::detail

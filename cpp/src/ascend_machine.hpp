/// What a machine has of the Ascend family, seen without touching a device: chip, CANN, package.
///
/// `npu-smi` and the files of CANN are for people; what they say is read where it is understood,
/// and `unknown` otherwise. The rules are those of runtime/vitaie/runtime/_ascend_machine.py.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vitaie::detail {

inline constexpr std::string_view unknown = "unknown";

/// A package of the vendor's and its version, either of them empty or `unknown` when it is not
/// known.
struct Package {
    std::string name;
    std::string version{unknown};
};

/// Returns the chips that `npu-smi` lists, such as `Ascend310P3`; none where it is not installed.
std::vector<std::string> find_chips();

/// Returns the version that CANN's files give, or `unknown`.
std::string find_cann();

/// Returns the package that a library lies in, by the folder of one of the package's names above it
/// and by pip's metadata beside that folder: no symbol of the library says either.
Package find_package(const std::filesystem::path& library);

/// Returns the chips in what `npu-smi info` prints.
std::vector<std::string> read_chips(std::string_view table);

/// Returns the version in the text of one of CANN's files, or nothing.
std::string read_cann(std::string_view text);

}  // namespace vitaie::detail

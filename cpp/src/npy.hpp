/// NumPy's format 1.0 for little-endian float32 in C order, and nothing else of it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vitaie::detail {

/// Returns where the numbers begin in the bytes of a float32 [`count`], as numpy.save writes it.
/// Nothing when they are anything else: another type, shape, size or wording of the header.
std::optional<std::size_t> npy_numbers(std::string_view data, std::size_t count);

/// Returns what numpy.save writes before the numbers of a float32 array of that shape.
std::string npy_header(const std::vector<std::size_t>& shape);

}  // namespace vitaie::detail

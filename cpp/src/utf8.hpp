/// UTF-8, decoded as strictly as Python does: no overlong form, no surrogate, nothing over
/// U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vitaie::detail {

/// One character of a text and the bytes it takes; `size` 0 when the bytes are not UTF-8.
struct Character {
    char32_t code = 0;
    std::size_t size = 0;
};

/// Returns the first character of `text`, which must not be empty.
Character first_character(std::string_view text);

/// Returns where the first byte is that is not UTF-8, or `npos`.
std::size_t invalid_utf8(std::string_view text);

/// Returns how many characters (code points) valid UTF-8 holds.
std::size_t count_characters(std::string_view text);

/// Appends a character; a surrogate too, in the three bytes that are no valid UTF-8.
void append_utf8(std::string& text, char32_t code);

}  // namespace vitaie::detail

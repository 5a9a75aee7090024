#include "utf8.hpp"

#include <algorithm>

namespace vitaie::detail {

namespace {

unsigned byte_at(std::string_view text, std::size_t place) {
    return static_cast<unsigned char>(text[place]);
}

bool continues(std::string_view text, std::size_t place) {
    return place < text.size() && (byte_at(text, place) & 0xC0U) == 0x80U;
}

}  // namespace

Character first_character(std::string_view text) {
    const unsigned lead = byte_at(text, 0);
    if (lead < 0x80) {
        return {lead, 1};
    }
    // The lead bytes C0, C1 and F5 to FF begin no character.
    const std::size_t size = lead < 0xC2   ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
    if (size == 0) {
        return {};
    }
    char32_t code = lead & (0x7FU >> size);
    for (std::size_t place = 1; place < size; ++place) {
        if (!continues(text, place)) {
            return {};
        }
        code = code << 6 | (byte_at(text, place) & 0x3FU);
    }
    const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    if (overlong || surrogate || code > 0x10FFFF) {
        return {};
    }
    return {code, size};
}

std::size_t invalid_utf8(std::string_view text) {
    std::size_t place = 0;
    while (place < text.size()) {
        const Character character = first_character(text.substr(place));
        if (character.size == 0) {
            return place;
        }
        place += character.size;
    }
    return std::string_view::npos;
}

std::size_t count_characters(std::string_view text) {
    const auto begins = [](char byte) {
        return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
    };
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins));
}

void append_utf8(std::string& text, char32_t code) {
    const auto append = [&text](char32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) {
        append(code);
    } else if (code < 0x800) {
        append(0xC0 | code >> 6);
        append(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        append(0xE0 | code >> 12);
        append(0x80 | (code >> 6 & 0x3F));
        append(0x80 | (code & 0x3F));
    } else {
        append(0xF0 | code >> 18);
        append(0x80 | (code >> 12 & 0x3F));
        append(0x80 | (code >> 6 & 0x3F));
        append(0x80 | (code & 0x3F));
    }
}

}  // namespace vitaie::detail

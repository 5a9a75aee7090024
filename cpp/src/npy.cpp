#include "npy.hpp"

#include <algorithm>

namespace vitaie::detail {

namespace {

constexpr std::string_view magic("\x93NUMPY\x01\x00", 8);
constexpr std::string_view before_shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
constexpr std::string_view after_shape = "), }";
constexpr std::size_t preamble = magic.size() + 2;  // and two bytes for the header's length

/// Removes `prefix` from the begin of `text`; says whether it was there.
bool take(std::string_view& text, std::string_view prefix) {
    const bool there = text.substr(0, prefix.size()) == prefix;
    text.remove_prefix(there ? prefix.size() : 0);
    return there;
}

}  // namespace

std::optional<std::size_t> npy_numbers(std::string_view data, std::size_t count) {
    if (data.size() < preamble || data.substr(0, magic.size()) != magic) {
        return std::nullopt;
    }
    const std::size_t low = static_cast<unsigned char>(data[magic.size()]);
    const std::size_t high = static_cast<unsigned char>(data[magic.size() + 1]);
    const std::size_t begin = preamble + low + 256 * high;
    if (data.size() < begin || data.size() - begin != sizeof(float) * count) {
        return std::nullopt;
    }
    std::string_view header = data.substr(preamble, begin - preamble);
    if (!take(header, before_shape) || !take(header, std::to_string(count)) || !take(header, ",") ||
        !take(header, after_shape)) {
        return std::nullopt;
    }
    header.remove_prefix(std::min(header.find_first_not_of(' '), header.size()));
    return header == "\n" ? std::optional(begin) : std::nullopt;
}

std::string npy_header(const std::vector<std::size_t>& shape) {
    static constexpr std::size_t alignment = 64;
    static constexpr std::size_t growth = 21;  // room for the first size to grow, digits and spaces
    std::string sizes;
    for (const std::size_t size : shape) {
        sizes.append(sizes.empty() ? "" : ", ").append(std::to_string(size));
    }
    sizes.append(shape.size() == 1 ? "," : "");
    std::string header = std::string(before_shape).append(sizes).append(after_shape);
    if (!shape.empty()) {
        header.append(growth - std::to_string(shape.front()).size(), ' ');
    }
    const std::size_t unpadded = preamble + header.size() + 1;
    header.append((alignment - unpadded % alignment) % alignment, ' ').append("\n");
    std::string bytes(magic);
    bytes += static_cast<char>(header.size() & 0xFF);
    bytes += static_cast<char>(header.size() >> 8);
    return bytes + header;
}

}  // namespace vitaie::detail

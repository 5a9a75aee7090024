#include "error.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "utf8.hpp"

namespace vitaie::detail {

namespace {

constexpr std::size_t hint_limit = 400;

/// First and last of each run of characters that Python's `str.isprintable` refuses: controls,
/// formats, spaces but the plain one, surrogates, private use. What no version of Unicode has
/// assigned yet is left as it is, since that list grows with every version.
constexpr std::array<std::pair<char32_t, char32_t>, 28> unprintable = {{
    {0x0, 0x1F},        {0x7F, 0xA0},       {0xAD, 0xAD},       {0x600, 0x605},
    {0x61C, 0x61C},     {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},
    {0x8E2, 0x8E2},     {0x1680, 0x1680},   {0x180E, 0x180E},   {0x2000, 0x200F},
    {0x2028, 0x202F},   {0x205F, 0x2064},   {0x2066, 0x206F},   {0x3000, 0x3000},
    {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD},
    {0x110CD, 0x110CD}, {0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A},
    {0xE0001, 0xE0001}, {0xE0020, 0xE007F}, {0xF0000, 0xFFFFD}, {0x100000, 0x10FFFD},
}};

bool is_printable(char32_t code) {
    return std::none_of(unprintable.begin(), unprintable.end(), [code](const auto& run) {
        return run.first <= code && code <= run.second;
    });
}

std::string hexadecimal(char32_t code, int digits) {
    std::string text;
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
        text += "0123456789abcdef"[code >> shift & 0xF];
    }
    return text;
}

std::string escaped(char32_t code) {
    switch (code) {
        case '\t':
            return "\\t";
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        default:
            return code < 0x100     ? "\\x" + hexadecimal(code, 2)
                   : code < 0x10000 ? "\\u" + hexadecimal(code, 4)
                                    : "\\U" + hexadecimal(code, 8);
    }
}

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
    std::string line;
    std::size_t count = 0;        // characters of `line`
    std::size_t before_last = 0;  // bytes of `line` that hold its first `limit - 1` characters
    const auto append = [&](std::string_view bytes) {
        before_last = ++count < limit ? line.size() + bytes.size() : before_last;
        line += bytes;
    };
    while (!text.empty() && count <= limit) {
        const Character found = first_character(text);
        if (found.size != 0 && is_printable(found.code)) {
            append(text.substr(0, found.size));
        } else {
            const char32_t code =
                found.size != 0 ? found.code : 0xDC00U + static_cast<unsigned char>(text.front());
            for (const char letter : escaped(code)) {
                append({&letter, 1});
            }
        }
        text.remove_prefix(std::max<std::size_t>(found.size, 1));
    }
    return count <= limit ? line : line.substr(0, before_last) + "…";
}

Error::Error(Code code, std::string_view where) : code_(code), where_(printable(where)) {
    compose();
}

Error& Error::field(std::string_view text) {
    field_ = printable(text);
    return compose();
}

Error& Error::expected(std::string_view text) {
    expected_ = printable(text);
    return compose();
}

Error& Error::got(std::string_view text) {
    got_ = printable(text);
    return compose();
}

Error& Error::hint(std::string_view text) {
    hint_ = printable(text, hint_limit);
    return compose();
}

const ErrorCode& Error::row() const {
    return error_codes[static_cast<std::size_t>(code_)];
}

Error& Error::compose() {
    line_.assign(name()).append(": ").append(where_);
    if (!field_.empty()) {
        line_.append(": ").append(field_);
    }
    line_.append(": ").append(sentence());
    if (expected_ || got_) {
        line_.append(" (");
        if (expected_) {
            line_.append("expected ").append(*expected_).append(got_ ? ", " : "");
        }
        if (got_) {
            line_.append("got ").append(*got_);
        }
        line_.append(")");
    }
    line_.append(".");
    if (!hint_.empty()) {
        line_.append(" ").append(hint_);
    }
    return *this;
}

}  // namespace vitaie::detail

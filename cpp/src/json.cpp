#include "json.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <system_error>
#include <unordered_set>

#include "error.hpp"
#include "utf8.hpp"

namespace vitaie::detail::json {

namespace {

bool is_digit(char byte) {
    return '0' <= byte && byte <= '9';
}

void check_encoding(std::string_view data, const std::string& where) {
    if (data.substr(0, 3) == "\xEF\xBB\xBF") {
        throw Error(Code::E_MANIFEST_ENCODING, where).got("a byte order mark");
    }
    const std::size_t place = invalid_utf8(data);
    if (place != std::string_view::npos) {
        throw Error(Code::E_MANIFEST_ENCODING, where)
            .got("invalid UTF-8 at byte " + std::to_string(place));
    }
}

/// Refuses deep nesting before a recursive parser meets it, and then too many values and brackets.
///
/// A quote begins or ends a string unless an odd number of backslashes stands before it.
void check_depth_and_counts(std::string_view data, const std::string& where, const Most& most) {
    std::size_t commas = 0;
    std::size_t brackets = 0;
    int depth = 0;
    bool inside = false;
    bool escaped = false;
    for (const char byte : data) {
        if (byte == '"') {
            inside = inside == escaped;
        } else if (!inside && (byte == '[' || byte == '{')) {
            ++brackets;
            if (++depth > max_depth) {
                throw Error(Code::E_MANIFEST_DEPTH, where);
            }
        } else if (!inside && (byte == ']' || byte == '}')) {
            --depth;
        } else if (!inside && byte == ',') {
            ++commas;
        }
        escaped = byte == '\\' && !escaped;
    }
    const auto check = [&where](const char* name, std::size_t found, std::size_t limit) {
        if (found > limit) {
            throw Error(Code::E_MANIFEST_TOO_LARGE, where)
                .expected("at most " + std::to_string(limit) + " " + name)
                .got(std::to_string(found));
        }
    };
    check("commas", commas, most.commas);
    check("brackets", brackets, most.brackets);
}

/// The grammar of RFC 8259, and NaN and the infinities as numbers that are refused by their place.
class Parser {
  public:
    Parser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

    Value document() {
        Value value = read_value();
        skip_space();
        if (place_ != text_.size()) {
            fail("something after the end");
        }
        return value;
    }

  private:
    Value read_value() {
        skip_space();
        switch (peek()) {
            case '{':
                return {read_object()};
            case '[':
                return {read_array()};
            case '"':
                return {read_string()};
            default:
                return read_scalar();
        }
    }

    Object read_object() {
        Object members;
        ++place_;
        skip_space();
        if (take('}')) {
            return members;
        }
        do {
            skip_space();
            if (peek() != '"') {
                fail("a key is missing");
            }
            std::string key = read_string();
            skip_space();
            if (!take(':')) {
                fail("a colon is missing");
            }
            members.push_back({std::move(key), read_value()});
            skip_space();
        } while (take(','));
        if (!take('}')) {
            fail("a comma or } is missing");
        }
        return members;
    }

    Array read_array() {
        Array elements;
        ++place_;
        skip_space();
        if (take(']')) {
            return elements;
        }
        do {
            elements.push_back(read_value());
            skip_space();
        } while (take(','));
        if (!take(']')) {
            fail("a comma or ] is missing");
        }
        return elements;
    }

    Value read_scalar() {
        for (const char* number : {"NaN", "Infinity", "-Infinity"}) {
            if (take_word(number)) {
                return {BadNumber{number}};
            }
        }
        if (take_word("null")) {
            return {};
        }
        if (take_word("true")) {
            return {true};
        }
        if (take_word("false")) {
            return {false};
        }
        return read_number();
    }

    Value read_number() {
        const std::size_t begin = place_;
        take('-');
        if (!is_digit(peek())) {
            place_ = begin;
            fail("a value is missing");
        }
        if (!take('0')) {
            take_digits();
        }
        bool real = false;
        if (peek() == '.' && is_digit(peek(1))) {
            ++place_;
            take_digits();
            real = true;
        }
        if (peek() == 'e' || peek() == 'E') {
            const std::size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
            if (is_digit(peek(1 + sign))) {
                place_ += 1 + sign;
                take_digits();
                real = true;
            }
        }
        const std::string_view number = text_.substr(begin, place_ - begin);
        return real ? to_real(number) : to_integer(number);
    }

    static Value to_integer(std::string_view text) {
        std::int64_t number = 0;
        const auto done = std::from_chars(text.data(), text.data() + text.size(), number);
        if (done.ec != std::errc() || number > max_int || number < -max_int) {
            return {BadNumber{std::string(text)}};
        }
        return {number};
    }

    /// A number too small for a double is zero; one too large is none.
    static Value to_real(std::string_view text) {
        double number = 0;
        const auto done = std::from_chars(text.data(), text.data() + text.size(), number);
        if (done.ec == std::errc()) {
            return {number};
        }
        if (is_large(text)) {
            return {BadNumber{std::string(text)}};
        }
        return {text.front() == '-' ? -0.0 : 0.0};
    }

    /// Says whether a number out of the range of doubles is above it, not below: `from_chars` does
    /// not tell. It is when its first digit that is not zero stands for 10^0 or more.
    static bool is_large(std::string_view text) {
        const std::size_t mark = std::min(text.find_first_of("eE"), text.size());
        const std::string_view digits = text.substr(0, mark);
        const std::size_t first = digits.find_first_of("123456789");
        const std::size_t point = std::min(digits.find('.'), digits.size());
        if (first == std::string_view::npos) {
            return false;
        }
        const auto magnitude = static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first);
        return magnitude + exponent(text.substr(mark)) > 0;
    }

    /// Returns the number after `e`, 0 when there is none, cut to what an int32 holds.
    static std::int64_t exponent(std::string_view text) {
        if (text.empty()) {
            return 0;
        }
        text.remove_prefix(1);
        const bool negative = text.front() == '-';
        if (negative || text.front() == '+') {
            text.remove_prefix(1);
        }
        std::int32_t number = 0;
        const auto done = std::from_chars(text.data(), text.data() + text.size(), number);
        if (done.ec != std::errc()) {
            number = std::numeric_limits<std::int32_t>::max();
        }
        return negative ? -std::int64_t{number} : number;
    }

    /// Reads a string; half a character is left in it as no valid UTF-8, for the check to find.
    std::string read_string() {
        std::string result;
        ++place_;
        while (true) {
            const std::size_t begin = place_;
            while (place_ < text_.size() && is_plain(text_[place_])) {
                ++place_;
            }
            result += text_.substr(begin, place_ - begin);
            if (take('"')) {
                return result;
            }
            if (!take('\\')) {
                fail(place_ == text_.size() ? "a string without an end" : "a control character");
            }
            read_escape(result);
        }
    }

    static bool is_plain(char byte) {
        return byte != '"' && byte != '\\' && static_cast<unsigned char>(byte) >= 0x20;
    }

    void read_escape(std::string& result) {
        static constexpr std::string_view letters = "\"\\/bfnrt";
        static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            append_utf8(result, read_character());
            return;
        }
        const std::size_t letter =
            place_ == text_.size() ? std::string_view::npos : letters.find(text_[place_]);
        if (letter == std::string_view::npos) {
            fail("an unknown escape");
        }
        ++place_;
        result += meanings[letter];
    }

    /// Reads what follows `\u`, and the second half where the first one begins a pair.
    char32_t read_character() {
        const char32_t high = read_four_digits();
        const std::size_t after = place_;
        if (0xD800 <= high && high <= 0xDBFF && take_word("\\u")) {
            if (const auto low = four_digits(); low && 0xDC00 <= *low && *low <= 0xDFFF) {
                place_ += 4;
                return 0x10000 + ((high - 0xD800) << 10) + (*low - 0xDC00);
            }
            place_ = after;
        }
        return high;
    }

    char32_t read_four_digits() {
        const auto code = four_digits();
        if (!code) {
            fail("an escape without four digits");
        }
        place_ += 4;
        return *code;
    }

    [[nodiscard]] std::optional<char32_t> four_digits() const {
        const std::string_view digits = text_.substr(place_, 4);
        std::uint32_t code = 0;
        const auto done = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
        if (digits.size() < 4 || done.ptr != digits.data() + 4) {
            return std::nullopt;
        }
        return code;
    }

    /// Returns the byte that is `ahead` bytes ahead, NUL after the end.
    [[nodiscard]] char peek(std::size_t ahead = 0) const {
        return ahead < text_.size() - place_ ? text_[place_ + ahead] : '\0';
    }

    bool take(char byte) {
        const bool there = place_ < text_.size() && text_[place_] == byte;
        place_ += there ? 1 : 0;
        return there;
    }

    bool take_word(std::string_view word) {
        const bool there = text_.substr(place_, word.size()) == word;
        place_ += there ? word.size() : 0;
        return there;
    }

    void take_digits() {
        while (is_digit(peek())) {
            ++place_;
        }
    }

    void skip_space() {
        place_ = std::min(text_.find_first_not_of(" \t\r\n", place_), text_.size());
    }

    [[noreturn]] void fail(const std::string& what) const {
        const std::string_view before = text_.substr(0, place_);
        const auto line = 1 + std::count(before.begin(), before.end(), '\n');
        const std::size_t begin = before.rfind('\n') + 1;  // npos + 1 is 0
        const std::size_t column = 1 + count_characters(before.substr(begin));
        throw Error(Code::E_MANIFEST_JSON, where_)
            .got(what + ", line " + std::to_string(line) + " column " + std::to_string(column));
    }

    std::string_view text_;
    const std::string& where_;
    std::size_t place_ = 0;
};

/// The walk over a parsed text that knows the place of each value.
class Checker {
  public:
    explicit Checker(const std::string& where) : where_(where) {}

    void check(const Value& value, const Place& place) const {
        if (const auto* number = value.as<BadNumber>()) {
            throw Error(Code::E_MANIFEST_NUMBER, where_).field(place.path()).got(number->text);
        }
        if (const auto* text = value.as<std::string>()) {
            check_string(*text, place);
        } else if (const auto* elements = value.as<Array>()) {
            for (std::size_t index = 0; index < elements->size(); ++index) {
                check((*elements)[index], {place, index});
            }
        } else if (const auto* members = value.as<Object>()) {
            check_object(*members, place);
        }
    }

  private:
    void check_object(const Object& members, const Place& place) const {
        std::unordered_set<std::string_view> keys;
        for (const auto& [key, value] : members) {
            check_string(key, place);
            const Place inside(place, key);
            if (!keys.insert(key).second) {
                throw Error(Code::E_MANIFEST_DUPLICATE_KEY, where_).field(inside.path());
            }
            check(value, inside);
        }
    }

    void check_string(std::string_view text, const Place& place) const {
        if (text.find('\0') != std::string_view::npos ||
            invalid_utf8(text) != std::string_view::npos) {
            throw Error(Code::E_MANIFEST_STRING, where_).field(place.path()).got(text);
        }
    }

    const std::string& where_;
};

}  // namespace

const Value* find(const Object& object, std::string_view key) {
    const auto found = std::find_if(object.begin(), object.end(),
                                    [key](const Member& member) { return member.key == key; });
    return found == object.end() ? nullptr : &found->value;
}

std::string Place::path() const {
    std::vector<const Place*> chain;
    for (const Place* place = this; place->parent_ != nullptr; place = place->parent_) {
        chain.push_back(place);
    }
    std::string path;
    for (auto place = chain.rbegin(); place != chain.rend(); ++place) {
        if (const auto* index = std::get_if<std::size_t>(&(*place)->step_)) {
            path.append("[").append(std::to_string(*index)).append("]");
        } else {
            path.append(path.empty() ? "" : ".")
                .append(std::get<std::string_view>((*place)->step_));
        }
    }
    return path;
}

int Place::depth() const {
    int depth = 0;
    for (const Place* place = this; place->parent_ != nullptr; place = place->parent_) {
        ++depth;
    }
    return depth;
}

Object parse_object(std::string_view data, const std::string& where, std::size_t limit,
                    const Most& most) {
    if (data.size() > limit) {
        throw Error(Code::E_MANIFEST_TOO_LARGE, where)
            .expected("at most " + std::to_string(limit) + " bytes")
            .got(std::to_string(data.size()));
    }
    check_encoding(data, where);
    check_depth_and_counts(data, where, most);
    Value value = Parser(data, where).document();
    Checker(where).check(value, Place());
    if (auto* object = std::get_if<Object>(&value.data)) {
        return std::move(*object);
    }
    throw Error(Code::E_MANIFEST_NOT_OBJECT, where).expected("{…}").got(data);
}

}  // namespace vitaie::detail::json

#include "fields.hpp"

#include <algorithm>

#include "utf8.hpp"

namespace vitaie::detail {

namespace {

constexpr std::size_t max_name = 64;
constexpr std::size_t max_path = 255;
constexpr std::string_view digits = "0123456789";
constexpr std::string_view lower_letters_and_digits = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view name_characters = "abcdefghijklmnopqrstuvwxyz0123456789_.-";
constexpr std::string_view path_characters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

bool consists_of(std::string_view text, std::string_view characters) {
    return text.find_first_not_of(characters) == std::string_view::npos;
}

bool is_sha256(std::string_view text) {
    return text.size() == 64 && consists_of(text, "0123456789abcdef");
}

bool is_name(std::string_view text) {
    return !text.empty() && text.size() <= max_name && consists_of(text, name_characters) &&
           consists_of(text.substr(0, 1), lower_letters_and_digits);
}

bool is_path(std::string_view text) {
    if (text.size() > max_path) {
        return false;
    }
    while (true) {
        const std::size_t end = std::min(text.find('/'), text.size());
        const std::string_view part = text.substr(0, end);
        if (part.empty() || part[0] == '.' || part[0] == '-' ||
            !consists_of(part, path_characters)) {
            return false;
        }
        if (end == text.size()) {
            return true;
        }
        text.remove_prefix(end + 1);
    }
}

/// Returns the number that decimal digits make.
int number_of(std::string_view text) {
    int number = 0;
    for (const char digit : text) {
        number = 10 * number + (digit - '0');
    }
    return number;
}

/// Says whether `text` is digits that make a number from `least` to `most`.
bool is_within(std::string_view text, int least, int most) {
    return consists_of(text, digits) && least <= number_of(text) && number_of(text) <= most;
}

/// Returns the last day of a month, 1 to 12, as the Gregorian calendar has it for any year.
int days_in_month(int year, int month) {
    if (month == 2) {
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
    }
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/// `2026-01-02T03:04:05Z`
bool is_date(std::string_view text) {
    static constexpr std::string_view form = "0000-00-00T00:00:00Z";
    if (text.size() != form.size()) {
        return false;
    }
    for (std::size_t place = 0; place < form.size(); ++place) {
        if (form[place] != '0' && text[place] != form[place]) {
            return false;
        }
    }
    if (!consists_of(text.substr(0, 4), digits) || !is_within(text.substr(5, 2), 1, 12)) {
        return false;
    }
    const int days = days_in_month(number_of(text.substr(0, 4)), number_of(text.substr(5, 2)));
    return is_within(text.substr(8, 2), 1, days) && is_within(text.substr(11, 2), 0, 23) &&
           is_within(text.substr(14, 2), 0, 59) && is_within(text.substr(17, 2), 0, 59);
}

std::string describe(const json::Value& value) {
    if (const auto* text = value.as<std::string>()) {
        return '"' + *text + '"';
    }
    if (const auto* integer = value.as<std::int64_t>()) {
        return std::to_string(*integer);
    }
    if (const auto* real = value.as<double>()) {
        return std::to_string(*real);
    }
    if (const auto* boolean = value.as<bool>()) {
        return *boolean ? "true" : "false";
    }
    if (const auto* elements = value.as<json::Array>()) {
        return "an array of " + std::to_string(elements->size());
    }
    return value.as<json::Object>() != nullptr ? "an object" : "null";
}

}  // namespace

std::optional<Version> parse_version(std::string_view text) {
    Version version{};
    for (std::size_t part = 0; part < version.size(); ++part) {
        const bool last = part + 1 == version.size();
        const std::size_t end = last ? text.size() : text.find('.');
        const std::string_view number = text.substr(0, end);
        const bool plain = number == "0" || (!number.empty() && number[0] != '0');
        if (end == std::string_view::npos || number.size() > 9 || !plain ||
            !consists_of(number, digits)) {
            return std::nullopt;
        }
        version[part] = std::stoi(std::string(number));
        text.remove_prefix(last ? end : end + 1);
    }
    return version;
}

Error Fault::error(const std::string& where) const {
    Error error(code, where);
    error.field(field);
    if (!expected.empty()) {
        error.expected(expected);
    }
    if (!got.empty()) {
        error.got(got);
    }
    return error;
}

bool Faults::keeps(const json::Place& place) {
    const int depth = place.depth();
    if (depth < depth_) {
        return false;
    }
    std::string path = place.path();
    if (depth == depth_ && path >= path_) {
        return false;
    }
    depth_ = depth;
    path_ = std::move(path);
    return true;
}

void Faults::add(Code code, const json::Place& place, const json::Value* value,
                 std::string_view expected) {
    if (keeps(place)) {
        worst_ = Fault{code, path_, std::string(expected),
                       value == nullptr ? std::string() : describe(*value)};
    }
}

void Faults::add_lack(const json::Place& array, std::size_t index) {
    if (keeps(json::Place(array, index))) {
        worst_ = Fault{Code::E_MANIFEST_VALUE, array.path(), "more elements"};
    }
}

void Faults::raise(const std::string& where) const {
    if (worst_) {
        throw worst_->error(where);
    }
}

void Field::refuse(Code code, std::string_view expected) const {
    faults_.add(code, place_, value_, expected);
}

std::string Field::text(std::size_t least, std::size_t most) const {
    const auto* text = as<std::string>("a string");
    if (text == nullptr) {
        return {};
    }
    const std::size_t characters = count_characters(*text);
    if (characters < least || characters > most) {
        refuse(Code::E_MANIFEST_VALUE,
               std::to_string(least) + " to " + std::to_string(most) + " characters");
    }
    return *text;
}

std::string Field::word(std::initializer_list<std::string_view> words) const {
    std::string expected;
    for (const auto word : words) {
        expected.append(expected.empty() ? "" : " or ").append(word);
    }
    const auto* text = as<std::string>(expected);
    if (text == nullptr) {
        return {};
    }
    if (std::find(words.begin(), words.end(), *text) == words.end()) {
        refuse(Code::E_MANIFEST_VALUE, expected);
    }
    return *text;
}

template <class Matches>
std::string Field::matching(Matches matches, const char* expected) const {
    const auto* text = as<std::string>("a string");
    if (text == nullptr) {
        return {};
    }
    if (!matches(*text)) {
        refuse(Code::E_MANIFEST_VALUE, expected);
    }
    return *text;
}

std::string Field::sha256() const {
    return matching(is_sha256, "64 lower-case hexadecimal digits");
}

std::string Field::name() const {
    return matching(is_name, "[a-z0-9][a-z0-9_.-]{0,63}");
}

std::string Field::version() const {
    return matching([](const std::string& text) { return parse_version(text).has_value(); },
                    "X.Y.Z, each 0 or up to 9 digits without a leading zero");
}

std::string Field::date() const {
    return matching(is_date, "YYYY-MM-DDThh:mm:ssZ");
}

std::string Field::path() const {
    const auto* text = as<std::string>("a string");
    if (text == nullptr) {
        return {};
    }
    if (!is_path(*text)) {
        refuse(Code::E_MANIFEST_PATH,
               "letters, digits and _.-/ in at most 255 characters, no part of it empty or "
               "beginning with a dot or a hyphen");
    }
    return *text;
}

std::int64_t Field::integer(std::int64_t least, std::int64_t most) const {
    const auto* number = as<std::int64_t>("an integer");
    if (number == nullptr) {
        return 0;
    }
    if (*number < least || *number > most) {
        refuse(Code::E_MANIFEST_VALUE, std::to_string(least) + " to " + std::to_string(most));
    }
    return *number;
}

template <class Allows>
double Field::real_where(Allows allows, const char* expected) const {
    if (value_ == nullptr) {
        return 0;
    }
    double number = 0;
    if (const auto* integer = value_->as<std::int64_t>()) {
        number = static_cast<double>(*integer);
    } else if (const auto* real = value_->as<double>()) {
        number = *real;
    } else {
        refuse(Code::E_MANIFEST_TYPE, "a number");
        return 0;
    }
    if (!allows(number)) {
        refuse(Code::E_MANIFEST_VALUE, expected);
    }
    return number;
}

double Field::real() const {
    return real_where([](double) { return true; }, "");
}

double Field::percent() const {
    return real_where([](double number) { return number >= 0 && number <= 100; }, "0 to 100");
}

double Field::measure() const {
    return real_where([](double number) { return number >= 0; }, "at least 0");
}

double Field::positive_real() const {
    return real_where([](double number) { return number > 0; }, "more than 0");
}

double Field::mean() const {
    return real_where([](double number) { return number >= -1000 && number <= 1000; },
                      "-1000 to 1000");
}

double Field::deviation() const {
    return real_where([](double number) { return number >= 1e-6 && number <= 1000; },
                      "0.000001 to 1000");
}

double Field::bound() const {
    return real_where([](double number) { return number > 0 && number <= 1; },
                      "more than 0, at most 1");
}

double Field::share() const {
    return real_where([](double number) { return number >= 0 && number <= 1; }, "0 to 1");
}

bool Field::boolean() const {
    const auto* value = as<bool>("a boolean");
    return value != nullptr && *value;
}

Field Members::operator[](std::string_view key) {
    known_.push_back(key);
    const json::Place place(place_, key);
    const json::Value* value = json::find(object_, key);
    if (value == nullptr) {
        faults_.add(Code::E_MANIFEST_MISSING_FIELD, place, nullptr);
    }
    return {value, place, faults_};
}

void Members::refuse_others() const {
    for (const auto& [key, value] : object_) {
        if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
            faults_.add(Code::E_MANIFEST_UNKNOWN_FIELD, json::Place(place_, key), &value);
        }
    }
}

}  // namespace vitaie::detail

/// JSON, read strictly: what two parsers could read in two ways is refused, with its place.
///
/// The verdicts are those of manifests/vitaie/manifests/strict_json.py, to the code and the field
/// path. They need what ready-made parsers keep to themselves: which string holds half a
/// character, and where a number stands that no double holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vitaie::detail::json {

/// Objects and arrays inside each other, the outermost one counted.
inline constexpr int max_depth = 16;

/// The largest integer that every language's double holds exactly, and its neighbours too.
inline constexpr std::int64_t max_int = (std::int64_t{1} << 53) - 1;

struct Member;
struct Value;

/// A number that a manifest cannot hold, kept until its place is known; none is ever returned.
struct BadNumber {
    std::string text;
};

using Array = std::vector<Value>;
using Object = std::vector<Member>;  // in the order of the text

/// A JSON value. Integers are numbers without `.`, `e` and `E`; all others are doubles.
struct Value {
    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object, BadNumber>
        data = nullptr;

    /// Returns the value as a `T` of the variant, or null when it is something else.
    template <class T>
    [[nodiscard]] const T* as() const {
        return std::get_if<T>(&data);
    }
};

struct Member {
    std::string key;
    Value value;
};

/// Returns the member of that name, or null.
const Value* find(const Object& object, std::string_view key);

/// Where a value stands: a chain of steps up to the document, each on the stack of who walks there.
/// The path is only made when somebody asks, so that a walk costs nothing but the steps.
class Place {
  public:
    /// The document itself.
    Place() = default;
    Place(const Place& parent, std::string_view key) : parent_(&parent), step_(key) {}
    Place(const Place& parent, std::size_t index) : parent_(&parent), step_(index) {}

    /// Returns the place as `artifacts[2].size`.
    [[nodiscard]] std::string path() const;
    /// Returns how many steps it is away from the document.
    [[nodiscard]] int depth() const;

  private:
    const Place* parent_ = nullptr;
    std::variant<std::string_view, std::size_t> step_;
};

/// How many commas, and opening brackets of both kinds, there may be outside of strings.
struct Most {
    std::size_t commas = static_cast<std::size_t>(-1);
    std::size_t brackets = static_cast<std::size_t>(-1);
};

/// Returns the JSON object in `data`, in time linear in its length.
///
/// Steps, in this order: size, encoding, depth, number of values, syntax, then keys, numbers and
/// strings in the order of the text, and last that the whole is an object.
///
/// \throws Error More than `limit` bytes, or commas or brackets than `most`, a byte order mark, invalid UTF-8, more
///     or less than one JSON value, a duplicate key, a number that is not finite or an integer
///     outside ±(2^53 - 1), a NUL or a lone surrogate in a string, or nesting deeper than 16.
Object parse_object(std::string_view data, const std::string& where, std::size_t limit,
                    const Most& most = {});

}  // namespace vitaie::detail::json

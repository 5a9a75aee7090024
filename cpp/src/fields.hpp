/// The kinds of field a manifest has, and the code that each way of being wrong gets.
///
///     Crop read_crop(const Field& field) {
///         Crop crop;
///         field.object([&](Members& members) {
///             crop.mode = members["mode"].word({"center"});
///             crop.size = members["size"].positive();
///         });
///         return crop;
///     }
///
/// Nothing is thrown while fields are read: a fault goes into `Faults`, the value read is then an
/// empty one, and whoever began to read throws what `Faults` holds in the end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "json.hpp"

namespace vitaie::detail {

/// One thing that is wrong: its code, its place, and what was there instead of what.
struct Fault {
    Code code;
    std::string field;
    std::string expected = {};
    std::string got = {};

    [[nodiscard]] Error error(const std::string& where) const;
};

/// What was found wrong. Of several faults the innermost is kept, and of these the first by name,
/// which is the one that Python names.
class Faults {
  public:
    /// Takes note of what is wrong at `place`. `value` is what is there, null when nothing is.
    void add(Code code, const json::Place& place, const json::Value* value,
             std::string_view expected = {});
    /// The same for an element that an array of `array`'s place lacks; the array is then named.
    void add_lack(const json::Place& array, std::size_t index);
    /// Throws the fault that was kept, if there is one.
    void raise(const std::string& where) const;

  private:
    bool keeps(const json::Place& place);

    std::optional<Fault> worst_;
    std::string path_;
    int depth_ = -1;
};

/// A version's three numbers.
using Version = std::array<int, 3>;

/// Returns `X.Y.Z` as three numbers, or nothing when `text` is not a version.
std::optional<Version> parse_version(std::string_view text);

class Members;

/// A value of the manifest, its place, and where to report what is wrong with it. Without a value
/// it is missing, which is known already, and gives empty values.
class Field {
  public:
    Field(const json::Value* value, const json::Place& place, Faults& faults)
        : value_(value), place_(place), faults_(faults) {}

    /// A string of `least` to `most` characters.
    [[nodiscard]] std::string text(std::size_t least = 0, std::size_t most = 4096) const;
    /// A string of at least one character.
    [[nodiscard]] std::string label() const { return text(1); }
    /// One of these strings.
    [[nodiscard]] std::string word(std::initializer_list<std::string_view> words) const;
    [[nodiscard]] std::string sha256() const;
    [[nodiscard]] std::string name() const;
    [[nodiscard]] std::string version() const;
    [[nodiscard]] std::string date() const;
    /// A path of at most 255 plain characters that stays inside the bundle.
    [[nodiscard]] std::string path() const;

    [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const;
    [[nodiscard]] std::int64_t count() const { return integer(0, json::max_int); }
    [[nodiscard]] std::int64_t positive() const { return integer(1, json::max_int); }
    [[nodiscard]] double real() const;
    [[nodiscard]] double percent() const;
    [[nodiscard]] double measure() const;
    [[nodiscard]] double positive_real() const;
    /// Of what a pixel's value, 0 to 1, is normalised with: no tensor's value overflows.
    [[nodiscard]] double mean() const;
    [[nodiscard]] double deviation() const;
    /// A real above 0 and at most 1.
    [[nodiscard]] double bound() const;
    /// A real from 0 to 1.
    [[nodiscard]] double share() const;
    [[nodiscard]] bool boolean() const;

    [[nodiscard]] const json::Value* value() const { return value_; }
    void refuse(Code code, std::string_view expected) const;

    /// Calls `read(members)` for an object, and refuses the members that it did not ask for.
    template <class Read>
    void object(Read read) const;

    /// Calls `read(key, field)` for each member of an object whose keys are free.
    template <class Read>
    void entries(Read read) const {
        if (const auto* members = as<json::Object>("an object")) {
            for (const auto& [key, value] : *members) {
                read(key, Field(&value, json::Place(place_, key), faults_));
            }
        }
    }

    /// Returns `read(field)`, or nothing for null.
    template <class Read>
    auto unless_null(Read read) const {
        const bool is_null = value_ != nullptr && value_->as<std::nullptr_t>() != nullptr;
        return is_null ? std::nullopt : std::optional(read(*this));
    }

    /// Returns `read(field)` of each element of an array of `least` to `most` elements.
    template <class Read>
    auto elements(Read read, std::size_t least = 0, std::size_t most = SIZE_MAX) const {
        std::vector<decltype(read(*this))> values;
        if (const auto* array = as<json::Array>("an array")) {
            for (std::size_t index = 0; index < array->size(); ++index) {
                values.push_back(read(element(*array, index)));
            }
            if (array->size() < least || array->size() > most) {
                refuse(Code::E_MANIFEST_VALUE, "another number of elements");
            }
        }
        return values;
    }

    /// Returns `read(field)` of each element of an array of exactly `size` elements.
    template <std::size_t size, class Read>
    auto exactly(Read read) const {
        std::array<decltype(read(*this)), size> values{};
        const auto* array = as<json::Array>("an array");
        if (array != nullptr && array->size() > size) {
            refuse(Code::E_MANIFEST_VALUE, "fewer elements");
            array = nullptr;
        }
        for (std::size_t index = 0; array != nullptr && index < size; ++index) {
            if (index < array->size()) {
                values[index] = read(element(*array, index));
            } else {
                faults_.add_lack(place_, index);
            }
        }
        return values;
    }

  private:
    template <class T>
    const T* as(std::string_view kind) const {
        const T* value = value_ == nullptr ? nullptr : value_->as<T>();
        if (value_ != nullptr && value == nullptr) {
            refuse(Code::E_MANIFEST_TYPE, kind);
        }
        return value;
    }
    [[nodiscard]] Field element(const json::Array& array, std::size_t index) const {
        return {&array[index], json::Place(place_, index), faults_};
    }
    template <class Matches>
    std::string matching(Matches matches, const char* expected) const;
    template <class Allows>
    double real_where(Allows allows, const char* expected) const;

    const json::Value* value_;
    json::Place place_;
    Faults& faults_;
};

/// The members of an object that is being read.
class Members {
  public:
    Members(const json::Object& object, const json::Place& place, Faults& faults)
        : object_(object), place_(place), faults_(faults) {}

    /// Returns a member that must be there.
    Field operator[](std::string_view key);
    /// Refuses every member that was not asked for.
    void refuse_others() const;

  private:
    const json::Object& object_;
    const json::Place& place_;
    Faults& faults_;
    std::vector<std::string_view> known_;
};

template <class Read>
void Field::object(Read read) const {
    if (const auto* object = as<json::Object>("an object")) {
        Members members(*object, place_, faults_);
        read(members);
        members.refuse_others();
    }
}

}  // namespace vitaie::detail

/// The pickles of a TorchScript archive, read with the few opcodes that torch writes, and no other.
///
///     const Pickle pickle = read_pickle(bytes, {{"0", 4096}});
///     if (const auto* module = pickle.module(pickle.value)) { … module->attributes … }
///
/// The rules and their reasons are those of runtime/vitaie/runtime/_torchscript_pickle.py. What
/// modules and attributes hold lies beside each other here, so that depth costs no stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vitaie::detail::torchscript {

/// What an archive holds and torch writes for no traced model; turned into an `Error` that names
/// the archive and its member.
struct Unsafe {
    std::string got;
};

struct None {};
struct Mark {};   ///< where the items of a tuple, or the attributes of an instance, begin
struct Hooks {};  ///< those of a tensor: none
/// Shared, because a memo may give it many times.
using Shared = std::shared_ptr<const std::string>;
struct Text {
    Shared text;
};
/// The name of a class or function.
struct Global {
    Shared name;
};
struct Instance {
    Shared type;
};
struct Storage {
    std::int64_t elements;
};
/// A tensor whose elements all lie within its storage.
struct Tensor {};
/// Attributes by their index in the pickle; `none_yet` before they are given.
struct Attributes {
    static constexpr std::size_t none_yet = static_cast<std::size_t>(-1);
    std::size_t index = none_yet;
};
/// A module by its index in the pickle.
struct ModuleIndex {
    std::size_t index;
};
/// In a memo: what may not stand in two places.
struct Unshared {
    const char* kind;
};

struct Value;
using Tuple = std::vector<Value>;

struct Value {
    std::variant<None, bool, std::int64_t, Text, Global, Instance, Storage, Tensor, Hooks, Mark,
                 Attributes, ModuleIndex, Tuple, Unshared>
        data;

    template <class T>
    [[nodiscard]] const T* as() const {
        return std::get_if<T>(&data);
    }
};

using Pairs = std::vector<std::pair<Shared, Value>>;  // in the order of the pickle

/// An instance of one of the archive's classes.
struct Module {
    Shared type;
    std::size_t attributes;  ///< `Attributes::index`; may be `none_yet`
};

struct Pickle {
    Value value;
    std::vector<Module> modules;
    std::vector<Pairs> attributes;

    /// Returns the module that a value is, or null.
    [[nodiscard]] const Module* module(const Value& each) const {
        const auto* index = each.as<ModuleIndex>();
        return index == nullptr ? nullptr : &modules[index->index];
    }
    /// Returns a module's attributes.
    [[nodiscard]] const Pairs& of(const Module& module) const {
        static const Pairs none;
        return module.attributes == Attributes::none_yet ? none : attributes[module.attributes];
    }
};

/// Says whether a type is one of the archive's own; `torch.classes` are C++ of anybody's.
bool is_own_class(std::string_view name);

/// Returns the one value of a pickle.
///
/// \param storages The bytes of each storage, by key.
/// \throws Unsafe torch writes no such pickle, or a tensor reaches past its storage.
Pickle read_pickle(std::string_view data, const std::map<std::string, std::int64_t>& storages);

/// Returns a text as Python's `repr` shows it, within quotes; bytes over 127 as `\xNN`.
std::string quoted(std::string_view text);

inline bool is_letter(char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c == '_';
}
inline bool is_digit(char c) {
    return '0' <= c && c <= '9';
}
/// A letter, a digit or `_`: what regular expressions call a word's character.
inline bool is_word(char c) {
    return is_letter(c) || is_digit(c);
}

inline bool starts_with(std::string_view text, std::string_view start) {
    return text.substr(0, start.size()) == start;
}
inline bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace vitaie::detail::torchscript

#include "torchscript_classes.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace vitaie::detail::torchscript {

namespace {

constexpr int max_depth = 16;

/// Reads a line from its begin: each `take…` removes what it finds there, or says that it is not.
class Scanner {
  public:
    explicit Scanner(std::string_view line) : rest_(line) {}

    bool take(std::string_view text) {
        const bool there = starts_with(rest_, text);
        rest_.remove_prefix(there ? text.size() : 0);
        return there;
    }
    bool take_any(std::initializer_list<std::string_view> texts) {
        return std::any_of(texts.begin(), texts.end(), [this](auto text) { return take(text); });
    }
    /// Takes one or more characters of words, and of `more`.
    bool take_word(std::string& word, std::string_view more = "") {
        const auto* end = std::find_if(rest_.begin(), rest_.end(), [more](char c) {
            return !is_word(c) && more.find(c) == std::string_view::npos;
        });
        word = rest_.substr(0, static_cast<std::size_t>(end - rest_.begin()));
        rest_.remove_prefix(word.size());
        return !word.empty();
    }
    void take_digits() {
        rest_.remove_prefix(std::min(rest_.find_first_not_of("0123456789"), rest_.size()));
    }
    [[nodiscard]] bool is_at_end() const { return rest_.empty(); }
    [[nodiscard]] std::string_view rest() const { return rest_; }

  private:
    std::string_view rest_;
};

bool is_class(std::string_view line, std::string& name) {
    Scanner scan(line);
    return scan.take("class ") && scan.take_word(name) && scan.take("(Module):") &&
           scan.is_at_end();
}

/// `  def forward(self: TYPE,` or `  def forward(self: TYPE) -> TYPE:`
bool is_method(std::string_view line, std::string& type) {
    Scanner scan(line);
    if (!scan.take("  def forward")) {
        return false;
    }
    scan.take_digits();
    if (!scan.take("(self: ") || !scan.take_word(type, ".")) {
        return false;
    }
    if (scan.rest() == ",") {
        return true;
    }
    return scan.take(") -> ") && scan.rest().size() > 1 &&
           scan.rest().find(':') == scan.rest().size() - 1;
}

/// `  __parameters__ = ["weight", "bias", ]`
bool is_list_of_tensors(std::string_view line, std::vector<std::string>& names) {
    Scanner scan(line);
    if (!scan.take_any({"  __parameters__ = [", "  __buffers__ = ["})) {
        return false;
    }
    std::string name;
    while (scan.take("\"")) {
        if (!scan.take_word(name) || !scan.take("\", ")) {
            return false;
        }
        names.push_back(name);
    }
    return scan.rest() == "]";
}

bool is_type(std::string_view text) {
    if (text == "Tensor" || text == "bool" || text == "Optional[bool]") {
        return true;
    }
    Scanner scan(text);
    if (!scan.take("__torch__")) {
        return false;
    }
    std::string word;
    do {
        if (!scan.take(".") || !scan.take_word(word)) {
            return false;
        }
    } while (!scan.is_at_end());
    return true;
}

/// `  weight : Tensor` or `  __annotations__["0"] = Tensor`
bool is_attribute(std::string_view line, std::string& name, std::string& type) {
    Scanner scan(line);
    if (!scan.take("  ")) {
        return false;
    }
    Scanner plain = scan;
    if (!scan.take("__annotations__[\"") || !scan.take_word(name) || !scan.take("\"] = ")) {
        if (!plain.take_word(name) || is_digit(name.front()) || !plain.take(" : ")) {
            return false;
        }
        scan = plain;
    }
    type = scan.rest();
    return is_type(type);
}

using Types = std::map<std::string, std::string>;  // of attributes, by name

void check_tensors(const std::vector<std::pair<std::string, std::string>>& tensors,
                   const Classes& classes) {
    for (const auto& [type, name] : tensors) {
        const Types& declared = classes.at(type);
        const auto found = declared.find(name);
        if (found == declared.end() || found->second != "Tensor") {
            throw Unsafe{type + "." + name + ", which is to be a tensor"};
        }
    }
}

bool is_of(const Pickle& pickle, const Value& value, const std::string& declared) {
    if (declared == "Tensor") {
        return value.as<Tensor>() != nullptr;
    }
    if (declared == "bool" || declared == "Optional[bool]") {
        return value.as<bool>() != nullptr || (value.as<None>() != nullptr && declared != "bool");
    }
    const Module* module = pickle.module(value);
    return module != nullptr && *module->type == declared;
}

/// Returns the least name that is either declared or given, but not both; empty when there is none.
std::string odd_name(const Pairs& given, const Types& declared) {
    std::set<std::string_view> names;
    for (const auto& [name, value] : given) {
        names.insert(*name);
    }
    auto one = names.begin();
    auto other = declared.begin();
    while (one != names.end() && other != declared.end() && *one == other->first) {
        ++one;
        ++other;
    }
    if (one == names.end() && other == declared.end()) {
        return "";
    }
    if (one == names.end() || (other != declared.end() && other->first < *one)) {
        return other->first;
    }
    return std::string(*one);
}

/// Appends the modules that are attributes of one whose attributes are those of its class.
void append_children(const Pickle& pickle, const Module& module, const Classes& classes,
                     std::vector<const Module*>& children) {
    const auto found = classes.find(*module.type);
    if (found == classes.end()) {
        throw Unsafe{"a " + *module.type + ", which no code declares"};
    }
    const Types& declared = found->second;
    const Pairs& given = pickle.of(module);
    const std::string odd = odd_name(given, declared);
    if (!odd.empty() || given.size() != declared.size()) {
        throw Unsafe{*module.type + "." + odd + ", declared or given, but not both"};
    }
    for (const auto& [name, value] : given) {
        const std::string& type = declared.at(*name);
        if (!is_of(pickle, value, type)) {
            throw Unsafe{*module.type + "." + *name + ", which is no " + type};
        }
    }
    for (const auto& [name, value] : given) {
        if (const Module* child = pickle.module(value)) {
            children.push_back(child);
        }
    }
}

}  // namespace

void read_classes(const std::string& module, std::string_view code, Classes& classes) {
    std::vector<std::pair<std::string, std::string>> tensors;
    std::string type;
    bool in_method = true;
    for (std::size_t begin = 0; begin < code.size();) {
        const std::size_t end = std::min(code.find('\n', begin), code.size());
        const std::string_view line = code.substr(begin, end - begin);
        begin = end + 1;
        std::string name;
        std::string value;
        std::vector<std::string> names;
        if (is_class(line, name)) {
            type = module + "." + name;
            in_method = false;
            if (!classes.emplace(type, Types()).second) {
                throw Unsafe{type + " twice"};
            }
        } else if (!type.empty() && is_method(line, value)) {
            in_method = true;
            if (value != type) {
                throw Unsafe{"a method of " + value + " in " + type};
            }
        } else if (!type.empty() && in_method && starts_with(line, "    ")) {
            // A method's code: its words are checked one by one.
        } else if (!in_method && is_list_of_tensors(line, names)) {
            for (auto& each : names) {
                tensors.emplace_back(type, std::move(each));
            }
        } else if (!in_method && is_attribute(line, name, value)) {
            if (!classes[type].emplace(name, value).second) {
                throw Unsafe{name + " twice"};
            }
        } else {
            throw Unsafe{quoted(line) + " in " + (type.empty() ? "no class" : type)};
        }
    }
    check_tensors(tensors, classes);
}

void check_module(const Pickle& pickle, const Classes& classes) {
    const Module* whole = pickle.module(pickle.value);
    if (whole == nullptr) {
        throw Unsafe{"no module"};
    }
    std::set<std::string> seen;
    std::vector<const Module*> level = {whole};
    for (int depth = 0; depth < max_depth; ++depth) {
        std::vector<const Module*> children;
        for (const Module* module : level) {
            seen.insert(*module->type);
            append_children(pickle, *module, classes, children);
        }
        level = std::move(children);
    }
    if (!level.empty()) {
        throw Unsafe{"modules nested deeper than " + std::to_string(max_depth)};
    }
    for (const auto& [type, attributes] : classes) {
        if (seen.count(type) == 0) {
            throw Unsafe{"no module of " + type};
        }
    }
}

void check_constants(const Pickle& pickle) {
    const auto* items = pickle.value.as<Tuple>();
    const bool holds =
        items != nullptr && std::all_of(items->begin(), items->end(), [](auto& each) {
            return each.template as<Tensor>() != nullptr;
        });
    if (!holds) {
        throw Unsafe{"no tuple of tensors"};
    }
}

}  // namespace vitaie::detail::torchscript

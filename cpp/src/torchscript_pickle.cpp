#include "torchscript_pickle.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <set>

namespace vitaie::detail::torchscript {

namespace {

constexpr std::size_t max_dimensions = 8;
constexpr std::string_view hooks_function = "collections.OrderedDict";
constexpr std::string_view tensor_function = "torch._utils._rebuild_tensor_v2";

/// The storages of tensors, and the bytes of an element.
constexpr std::array<std::pair<std::string_view, std::int64_t>, 5> storage_types = {{
    {"torch.BoolStorage", 1},
    {"torch.IntStorage", 4},
    {"torch.FloatStorage", 4},
    {"torch.LongStorage", 8},
    {"torch.DoubleStorage", 8},
}};

/// Returns the bytes of an element, or 0 when that is no storage.
std::int64_t element_size(std::string_view name) {
    for (const auto& [type, size] : storage_types) {
        if (type == name) {
            return size;
        }
    }
    return 0;
}

/// Names separated by dots.
bool is_qualified(std::string_view text) {
    bool at_start = true;
    for (const char c : text) {
        if (at_start ? !is_letter(c) : !is_word(c) && c != '.') {
            return false;
        }
        at_start = c == '.';
    }
    return !at_start;
}

struct KindOf {
    const char* operator()(const None&) const { return "NoneType"; }
    const char* operator()(bool) const { return "bool"; }
    const char* operator()(std::int64_t) const { return "int"; }
    const char* operator()(const Text&) const { return "str"; }
    const char* operator()(const Global&) const { return "Global"; }
    const char* operator()(const Instance&) const { return "Instance"; }
    const char* operator()(const Storage&) const { return "Storage"; }
    const char* operator()(const Tensor&) const { return "Tensor"; }
    const char* operator()(const Hooks&) const { return "Hooks"; }
    const char* operator()(const Mark&) const { return "Mark"; }
    const char* operator()(const Attributes&) const { return "Attributes"; }
    const char* operator()(const ModuleIndex&) const { return "Module"; }
    const char* operator()(const Tuple&) const { return "tuple"; }
    const char* operator()(const Unshared& value) const { return value.kind; }
};

const char* kind(const Value& value) {
    return std::visit(KindOf(), value.data);
}

template <class... Types, std::size_t... Places>
bool are_at(const Tuple& items, std::index_sequence<Places...>) {
    return (std::holds_alternative<Types>(items[Places].data) && ...);
}

/// Says whether a tuple's items are of these types.
template <class... Types>
bool are(const Tuple& items) {
    return items.size() == sizeof...(Types) &&
           are_at<Types...>(items, std::index_sequence_for<Types...>());
}

std::string listed(const Tuple& numbers) {
    std::string text = "[";
    for (const auto& number : numbers) {
        text.append(text.size() > 1 ? ", " : "").append(std::to_string(*number.as<std::int64_t>()));
    }
    return text + "]";
}

/// Numbers that are not negative, added and multiplied without an end: what is over `limit` stays
/// just over it.
class Bounded {
  public:
    Bounded(std::int64_t value, std::int64_t limit)
        : value_(static_cast<Wide>(value)), limit_(static_cast<Wide>(limit)) {}
    void multiply(std::int64_t factor) { set(value_ * static_cast<Wide>(factor)); }
    void add(std::int64_t one, std::int64_t other) {
        set(value_ + static_cast<Wide>(one) * static_cast<Wide>(other));
    }
    [[nodiscard]] bool is_over() const { return value_ > limit_; }

  private:
    __extension__ using Wide = unsigned __int128;
    void set(Wide value) { value_ = std::min(value, limit_ + 1); }
    Wide value_;
    Wide limit_;
};

/// What `_rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks)` makes.
Tensor make_tensor(const Tuple& arguments) {
    if (!are<Storage, std::int64_t, Tuple, Tuple, bool, Hooks>(arguments)) {
        throw Unsafe{"a tensor of other than six facts"};
    }
    const std::int64_t elements = arguments[0].as<Storage>()->elements;
    const std::int64_t offset = *arguments[1].as<std::int64_t>();
    const Tuple& shape = *arguments[2].as<Tuple>();
    const Tuple& strides = *arguments[3].as<Tuple>();
    const auto is_negative = [](const Value& number) { return *number.as<std::int64_t>() < 0; };
    if (offset < 0 || std::any_of(shape.begin(), shape.end(), is_negative) ||
        std::any_of(strides.begin(), strides.end(), is_negative)) {
        throw Unsafe{"a tensor with an offset, size or stride below 0"};
    }
    if (shape.size() != strides.size() || shape.size() > max_dimensions) {
        throw Unsafe{"a tensor of " + std::to_string(shape.size()) + " sizes and " +
                     std::to_string(strides.size()) + " strides"};
    }
    // Bounded even where there are none: PyTorch multiplies in 64 bits.
    Bounded count(1, std::max<std::int64_t>(elements, 1));
    Bounded end(offset, elements);
    Bounded end_of_elements(offset, elements);
    end_of_elements.add(1, 1);
    bool is_empty = false;
    for (std::size_t index = 0; index < shape.size(); ++index) {
        const std::int64_t size = *shape[index].as<std::int64_t>();
        const std::int64_t stride = *strides[index].as<std::int64_t>();
        is_empty = is_empty || size == 0;
        count.multiply(std::max<std::int64_t>(size, 1));
        end_of_elements.add(std::max<std::int64_t>(size, 1) - 1, stride);
    }
    if (count.is_over() || (is_empty ? end : end_of_elements).is_over()) {
        throw Unsafe{"a tensor " + listed(shape) + " that reaches past its " +
                     std::to_string(elements) + " elements"};
    }
    return {};
}

/// A stack and a memo, as any unpickler has. Only tuples of integers nest in a tuple.
class Reader {
  public:
    Reader(std::string_view data, const std::map<std::string, std::int64_t>& storages)
        : data_(data), storages_(storages) {}

    Pickle read() {
        if (!starts_with(data_, "\x80\x02") || !ends_with(data_, ".")) {
            throw Unsafe{"no pickle of protocol 2"};
        }
        place_ = 2;
        const std::size_t end = data_.size() - 1;
        while (place_ < end) {
            obey(static_cast<unsigned char>(data_[place_++]));
        }
        if (stack_.size() != 1 || place_ != end) {
            throw Unsafe{"not one value"};
        }
        pickle_.value = pop();
        return std::move(pickle_);
    }

  private:
    /// The opcodes that torch's pickler.cpp writes; Python's pickletools says what each does.
    void obey(unsigned char opcode) {
        switch (opcode) {
            case ')':
                return push(Tuple());
            case '(':
                return push(Mark());
            case '}':
                return push(Attributes());
            case 'N':
                return push(None());
            case 0x88:
                return push(true);
            case 0x89:
                return push(false);
            case 'K':
                return push(number<std::uint8_t>());
            case 'M':
                return push(number<std::uint16_t>());
            case 'J':
                return push(number<std::int32_t>());
            case 'h':
                return get(number<std::uint8_t>());
            case 'j':
                return get(number<std::uint32_t>());
            case 'q':
                return put(number<std::uint8_t>());
            case 'r':
                return put(number<std::uint32_t>());
            case 0x85:
            case 0x86:
            case 0x87:
                return push_tuple(pop_items(opcode - 0x84U));
            case 't':
                return push_tuple(pop_to_mark());
            case 0x8A:
                return push_long();
            case 'X':
                return push_text();
            case 'c':
                return push_global();
            case 'Q':
                return push_storage();
            case 'R':
                return call();
            case 0x81:
                return push_instance();
            case 'u':
                return fill();
            case 'b':
                return build();
            default:
                throw Unsafe{std::string("opcode 0x") + "0123456789abcdef"[opcode >> 4] +
                             "0123456789abcdef"[opcode & 15]};
        }
    }

    [[noreturn]] static void throw_cut_off() {
        throw Unsafe{"a pickle that is cut off, or takes what is not there"};
    }

    template <class T>
    std::int64_t number() {
        if (data_.size() - std::min(place_, data_.size()) < sizeof(T)) {
            throw_cut_off();
        }
        T value;
        std::memcpy(&value, data_.data() + place_, sizeof value);  // little-endian, as here
        place_ += sizeof value;
        return static_cast<std::int64_t>(value);
    }

    template <class T>
    void push(T value) {
        stack_.push_back(Value{std::move(value)});
    }

    Value pop() {
        if (stack_.empty()) {
            throw_cut_off();
        }
        Value value = std::move(stack_.back());
        stack_.pop_back();
        return value;
    }

    template <class T>
    T pop_a(const char* name) {
        Value value = pop();
        if (T* found = std::get_if<T>(&value.data)) {
            return std::move(*found);
        }
        throw Unsafe{std::string("a ") + kind(value) + " in place of a " + name};
    }

    Tuple pop_items(std::size_t count) {
        if (stack_.size() < count) {
            throw_cut_off();
        }
        const auto begin = stack_.end() - static_cast<std::ptrdiff_t>(count);
        Tuple items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
        stack_.erase(begin, stack_.end());
        return items;
    }

    Tuple pop_to_mark() {
        std::size_t count = 0;
        while (count < stack_.size() && stack_[stack_.size() - 1 - count].as<Mark>() == nullptr) {
            ++count;
        }
        Tuple items = pop_items(count);
        pop();  // the mark
        return items;
    }

    void push_tuple(Tuple items) {
        for (const auto& item : items) {
            const auto* inner = item.as<Tuple>();
            const bool is_flat = inner == nullptr ||
                                 std::all_of(inner->begin(), inner->end(), [](const Value& each) {
                                     return each.as<std::int64_t>() != nullptr;
                                 });
            if (!is_flat) {
                throw Unsafe{"tuples within tuples"};
            }
        }
        push(std::move(items));
    }

    void push_long() {
        if (number<std::uint8_t>() != sizeof(std::int64_t)) {
            throw Unsafe{"an integer of other than 8 bytes"};
        }
        push(number<std::int64_t>());
    }

    void push_text() {
        const auto size = static_cast<std::size_t>(number<std::uint32_t>());
        const std::string_view text = data_.substr(place_, size);
        place_ += size;
        if (std::any_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; })) {
            throw Unsafe{"a string that is not ASCII"};
        }
        push(Text{std::make_shared<const std::string>(text)});
    }

    void push_global() {
        std::string name = line();
        name.append(".").append(line());
        if (name != hooks_function && name != tensor_function && element_size(name) == 0 &&
            !is_own_class(name)) {
            throw Unsafe{name};
        }
        push(Global{std::make_shared<const std::string>(std::move(name))});
    }

    std::string line() {
        const std::size_t end = data_.find('\n', place_);
        const std::size_t begin = std::min(place_, data_.size() - 1);
        const std::string_view text = data_.substr(begin, std::min(end, data_.size() - 1) - begin);
        if (end == std::string_view::npos || !is_qualified(text)) {
            throw Unsafe{"a name b" + quoted(text.substr(0, 100))};
        }
        place_ = end + 1;
        return std::string(text);
    }

    /// Remembers the last value. torch counts from 0: a larger index would be memory for it.
    void put(std::int64_t index) {
        if (index != static_cast<std::int64_t>(memo_.size())) {
            throw Unsafe{std::to_string(index) + " in a memo of " + std::to_string(memo_.size())};
        }
        if (stack_.empty()) {
            throw_cut_off();
        }
        const Value& last = stack_.back();
        // Modules may not stand in two places: two in each of forty levels are a billion.
        const bool is_shared = last.as<Text>() != nullptr || last.as<Global>() != nullptr ||
                               last.as<Storage>() != nullptr || last.as<Tensor>() != nullptr;
        memo_.push_back(is_shared ? last : Value{Unshared{kind(last)}});
    }

    void get(std::int64_t index) {
        if (index >= static_cast<std::int64_t>(memo_.size())) {
            throw_cut_off();
        }
        const Value& value = memo_[static_cast<std::size_t>(index)];
        if (const auto* unshared = value.as<Unshared>()) {
            throw Unsafe{std::string("a ") + unshared->kind + " in two places"};
        }
        stack_.push_back(value);
    }

    void push_storage() {
        const Tuple facts = pop_a<Tuple>("tuple");
        if (!are<Text, Global, Text, Text, std::int64_t>(facts)) {
            throw Unsafe{"a storage of other than five facts"};
        }
        const std::string& type = *facts[0].as<Text>()->text;
        const std::string& item = *facts[1].as<Global>()->name;
        const std::string& key = *facts[2].as<Text>()->text;
        const std::string& device = *facts[3].as<Text>()->text;
        const std::int64_t count = *facts[4].as<std::int64_t>();
        const auto found = storages_.find(key);
        if (type != "storage" || device != "cpu" || found == storages_.end()) {
            throw Unsafe{"a " + type + " " + quoted(key) + " on " + quoted(device)};
        }
        const std::int64_t size = element_size(item);
        if (size == 0) {
            throw Unsafe{"a storage of " + item};
        }
        if (found->second % size != 0 || found->second / size != count) {
            throw Unsafe{std::to_string(count) + " elements in the " +
                         std::to_string(found->second) + " bytes of " + quoted(key)};
        }
        push(Storage{count});
    }

    void call() {
        const Tuple arguments = pop_a<Tuple>("tuple");
        const Global function = pop_a<Global>("Global");
        if (*function.name == tensor_function) {
            push(make_tensor(arguments));
        } else if (*function.name != hooks_function) {
            throw Unsafe{"a call of " + *function.name};
        } else if (!arguments.empty()) {
            throw Unsafe{"a tensor with hooks"};
        } else {
            push(Hooks());
        }
    }

    void push_instance() {
        const Tuple arguments = pop_a<Tuple>("tuple");
        const Global type = pop_a<Global>("Global");
        if (!arguments.empty() || !is_own_class(*type.name)) {
            throw Unsafe{"an instance of " + *type.name};
        }
        push(Instance{type.name});
    }

    void fill() {
        Tuple items = pop_to_mark();
        const bool was_given = pop_a<Attributes>("Attributes").index != Attributes::none_yet;
        if (was_given || items.size() % 2 != 0) {
            throw Unsafe{"attributes that are not given once, in pairs"};
        }
        Pairs pairs;
        std::set<std::string_view> names;
        for (std::size_t index = 0; index < items.size(); index += 2) {
            const auto* name = items[index].as<Text>();
            if (name == nullptr || !names.insert(*name->text).second) {
                throw Unsafe{"an attribute without a name of its own"};
            }
            pairs.emplace_back(name->text, std::move(items[index + 1]));
        }
        if (pairs.empty()) {
            return push(Attributes());
        }
        pickle_.attributes.push_back(std::move(pairs));
        push(Attributes{pickle_.attributes.size() - 1});
    }

    void build() {
        const Attributes attributes = pop_a<Attributes>("Attributes");
        Instance instance = pop_a<Instance>("Instance");
        pickle_.modules.push_back({std::move(instance.type), attributes.index});
        push(ModuleIndex{pickle_.modules.size() - 1});
    }

    std::string_view data_;
    const std::map<std::string, std::int64_t>& storages_;
    std::size_t place_ = 0;
    std::vector<Value> stack_;
    std::vector<Value> memo_;
    Pickle pickle_;
};

}  // namespace

bool is_own_class(std::string_view name) {
    return starts_with(name, "__torch__.") && !starts_with(name, "__torch__.torch.classes");
}

Pickle read_pickle(std::string_view data, const std::map<std::string, std::int64_t>& storages) {
    return Reader(data, storages).read();
}

std::string quoted(std::string_view text) {
    const bool apostrophe = text.find('\'') != std::string_view::npos;
    const char quote = apostrophe && text.find('"') == std::string_view::npos ? '"' : '\'';
    std::string result(1, quote);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == quote || c == '\\') {
            result.append({'\\', c});
        } else if (c == '\n' || c == '\r' || c == '\t') {
            result.append({'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'});
        } else if (byte < 0x20 || byte >= 0x7F) {
            result.append(
                {'\\', 'x', "0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]});
        } else {
            result += c;
        }
    }
    return result + quote;
}

}  // namespace vitaie::detail::torchscript

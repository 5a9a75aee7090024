#include "torchscript_archive.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "error.hpp"
#include "torchscript_classes.hpp"
#include "torchscript_pickle.hpp"
#include "utf8.hpp"

namespace vitaie::detail {

namespace {

using std::string_view;
using torchscript::Classes;
using torchscript::ends_with;
using torchscript::is_digit;
using torchscript::is_letter;
using torchscript::is_word;
using torchscript::starts_with;
using torchscript::Unsafe;

// Sizes of a zip's records (APPNOTE.TXT 6.3.3, sections 4.3.7, 4.3.12 and 4.3.16).
constexpr std::size_t end_size = 22;
constexpr std::size_t entry_size = 46;
constexpr std::size_t local_size = 30;
constexpr std::uint32_t zip64 = 0xFFFF;
constexpr std::size_t max_text = std::size_t{1} << 20;  // of one member that is read
constexpr std::ptrdiff_t max_nesting = 32;
constexpr const char* more_or_less = "a zip archive with more or less in it than its members";

// Operators without side effects that a Vision Transformer's trace is made of.
constexpr std::array<string_view, 32> operators = {
    "_convolution", "add",     "addmm",     "bmm",     "cat",          "chunk",   "contiguous",
    "div",          "dropout", "expand",    "flatten", "floor_divide", "gelu",    "layer_norm",
    "linear",       "matmul",  "mul",       "numel",   "permute",      "reshape", "select",
    "size",         "slice",   "softmax",   "split",   "squeeze",      "sub",     "t",
    "transpose",    "unbind",  "unsqueeze", "view"};
constexpr std::array<string_view, 5> callable = {"int", "getattr", "annotate", "return",
                                                 "ops.prim.NumToTensor"};
constexpr std::array<string_view, 4> bound = {"torch", "ops", "getattr", "annotate"};
constexpr std::array<string_view, 14> keywords = {"while",  "for",   "if",     "else",    "with",
                                                  "try",    "raise", "assert", "lambda",  "import",
                                                  "global", "del",   "break",  "continue"};
constexpr std::array<string_view, 4> dunders = {"__torch__", "__parameters__", "__buffers__",
                                                "__annotations__"};

struct Member {
    std::string name;
    std::size_t start;
    std::size_t size;
};

/// What is wrong with a member, or with the zip when it is empty.
struct UnsafeMember {
    std::string member;
    std::string got;
};

template <std::size_t Size>
bool is_among(const std::array<string_view, Size>& names, string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

/// A little-endian number of `size` bytes, which are there.
std::uint32_t little_endian(string_view data, std::size_t place, std::size_t size) {
    std::uint32_t number = 0;
    for (std::size_t index = size; index-- > 0;) {
        number = number << 8 | static_cast<unsigned char>(data[place + index]);
    }
    return number;
}

/// What lies there, as much of it as there is.
string_view part(string_view data, std::size_t begin, std::size_t size) {
    return data.substr(std::min(begin, data.size()), size);
}

/// Bytes as Latin-1 characters, in UTF-8.
std::string latin1(string_view bytes) {
    std::string text;
    for (const char byte : bytes) {
        append_utf8(text, static_cast<unsigned char>(byte));
    }
    return text;
}

bool is_identifier(string_view text) {
    return !text.empty() && is_letter(text.front()) &&
           std::all_of(text.begin(), text.end(), is_word);
}

bool is_number(string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

/// Says whether a member may have that name.
bool is_member_name(string_view name) {
    if (!starts_with(name, "model/")) {
        return false;
    }
    name.remove_prefix(6);
    for (const string_view known :
         {"data.pkl", "constants.pkl", "version", "byteorder", ".data/version"}) {
        if (name == known) {
            return true;
        }
    }
    for (const string_view folder : {"data/", "constants/"}) {
        if (starts_with(name, folder)) {
            return is_number(name.substr(folder.size()));
        }
    }
    constexpr string_view code = "code/__torch__/";
    if (!starts_with(name, code) || !ends_with(name, ".py")) {
        return false;
    }
    name.remove_prefix(code.size());
    name.remove_suffix(std::min<std::size_t>(3, name.size()));
    while (true) {
        const std::size_t slash = name.find('/');
        if (!is_identifier(name.substr(0, slash))) {
            return false;
        }
        if (slash == string_view::npos) {
            return true;
        }
        name.remove_prefix(slash + 1);
    }
}

/// An extra field is empty, or torch's padding: "FB", its length, and as many "Z".
bool is_padding(string_view extra) {
    if (extra.empty()) {
        return true;
    }
    return extra.size() >= 4 && starts_with(extra, "FB") &&
           extra.find_first_not_of('Z', 4) == string_view::npos &&
           little_endian(extra, 2, 2) == extra.size() - 4;
}

/// The walk along the members of a zip that every reader reads alike, or its refusal.
class Zip {
  public:
    explicit Zip(string_view data) : data_(data) {}

    std::vector<Member> members() {
        if (data_.size() < end_size) {
            throw UnsafeMember{"", "not a zip archive"};
        }
        const std::size_t end = data_.size() - end_size;
        const string_view record = data_.substr(end);
        const std::uint32_t count = little_endian(record, 10, 2);
        const std::size_t length = little_endian(record, 12, 4);
        const std::size_t directory = little_endian(record, 16, 4);
        if (!starts_with(record, "PK\5\6") || little_endian(record, 4, 4) != 0 ||
            little_endian(record, 8, 2) != count || little_endian(record, 20, 2) != 0) {
            throw UnsafeMember{"", "not a zip archive, or one of several parts or with a comment"};
        }
        if (directory + length != end || count == zip64) {
            throw UnsafeMember{"", more_or_less};
        }
        data_ = data_.substr(0, end);
        entry_ = directory;
        std::vector<Member> found;
        std::set<std::string> seen;
        for (std::uint32_t index = 0; index < count; ++index) {
            found.push_back(next());
            // PyTorch's reader finds members without regard to case.
            std::string lower = found.back().name;
            std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
                return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            });
            if (!seen.insert(lower).second) {
                throw UnsafeMember{found.back().name, "the same name twice"};
            }
        }
        if (position_ != directory || entry_ != end) {
            throw UnsafeMember{"", more_or_less};
        }
        return found;
    }

  private:
    /// Returns the member at `position_`, whose directory entry is at `entry_`, and steps on.
    Member next() {
        const string_view entry = part(data_, entry_, entry_size);
        const string_view local = part(data_, position_, local_size);
        if (entry.size() < entry_size || local.size() < local_size) {
            throw UnsafeMember{"", "a zip archive that is cut off"};
        }
        const std::size_t name_length = little_endian(entry, 28, 2);
        const std::size_t extra_length = little_endian(entry, 30, 2);
        const std::size_t local_name_length = little_endian(local, 26, 2);
        const std::size_t local_extra_length = little_endian(local, 28, 2);
        const std::size_t name_place = entry_ + entry_size;
        const std::size_t local_name_place = position_ + local_size;
        const std::size_t start = local_name_place + local_name_length + local_extra_length;
        const string_view name = part(data_, name_place, name_length);
        if (!is_member_name(name)) {
            throw UnsafeMember{latin1(name), "an unexpected member"};
        }
        const std::uint32_t packed = little_endian(entry, 20, 4);
        const std::uint32_t size = little_endian(entry, 24, 4);
        const bool has_flags = little_endian(entry, 8, 2) != 0;
        const bool is_packed = little_endian(entry, 10, 2) != 0;
        if (has_flags || is_packed || packed != size) {
            throw UnsafeMember{std::string(name),
                               "compressed, encrypted or with a data descriptor"};
        }
        constexpr std::size_t shared = 20;  // flags, method, time, date, checksum and two sizes
        const bool is_alike =
            starts_with(entry, "PK\1\2") && starts_with(local, "PK\3\4") &&
            entry.substr(8, shared) == local.substr(6, shared) &&
            part(data_, local_name_place, local_name_length) == name &&
            little_endian(entry, 32, 2) == 0 &&  // no comment
            little_endian(entry, 34, 2) == 0 &&  // on the first disk
            little_endian(entry, 42, 4) == position_ &&
            is_padding(part(data_, name_place + name_length, extra_length)) &&
            is_padding(part(data_, local_name_place + local_name_length, local_extra_length));
        if (!is_alike) {
            throw UnsafeMember{std::string(name), "not what the zip's directory says"};
        }
        position_ = start + size;
        entry_ = name_place + name_length + extra_length;
        return {std::string(name), start, size};
    }

    string_view data_;
    std::size_t position_ = 0;
    std::size_t entry_ = 0;
};

/// Where the word that begins at `place` ends.
std::size_t end_of_word(string_view code, std::size_t place) {
    while (place < code.size() && is_word(code[place])) {
        ++place;
    }
    return place;
}

std::size_t end_of_digits(string_view code, std::size_t place) {
    while (place < code.size() && is_digit(code[place])) {
        ++place;
    }
    return place;
}

std::size_t end_of_spaces(string_view code, std::size_t place) {
    return std::min(code.find_first_not_of(' ', place), code.size());
}

/// `forward`, or `forward` and digits.
bool is_forward(string_view name) {
    return starts_with(name, "forward") && end_of_digits(name, 7) == name.size();
}

void check_characters(string_view code) {
    const bool known = std::all_of(code.begin(), code.end(), [](char c) {
        return is_word(c) || string_view("\n \"(),.:=>[]-").find(c) != string_view::npos;
    });
    if (!known) {
        throw Unsafe{"a character that traced code does not have"};
    }
}

/// Names with two underscores before and behind a name of their own, wherever they stand.
void check_dunders(string_view code) {
    for (std::size_t place = code.find("__"); place != string_view::npos;
         place = code.find("__", place)) {
        const std::size_t end = end_of_word(code, place);
        const bool begins = place + 2 < end && 'a' <= code[place + 2] && code[place + 2] <= 'z';
        const std::size_t close = begins ? code.find("__", place + 3) : string_view::npos;
        if (close == string_view::npos || close + 2 > end) {
            ++place;
            continue;
        }
        const string_view dunder = code.substr(place, close + 2 - place);
        if (!is_among(dunders, dunder)) {
            throw Unsafe{std::string(dunder)};
        }
        place = close + 2;
    }
}

/// Where `  def forward(self: __torch__.some.Type` ends, with which a line begins; 0 when it does not.
std::size_t end_of_method_head(string_view line) {
    constexpr string_view head = "  def forward";
    constexpr string_view self = "(self: __torch__";
    if (!starts_with(line, head)) {
        return 0;
    }
    const std::size_t begin = end_of_digits(line, head.size());
    if (!starts_with(line.substr(begin), self)) {
        return 0;
    }
    std::size_t end = begin + self.size();
    while (end < line.size() && (is_word(line[end]) || line[end] == '.')) {
        ++end;
    }
    return end == begin + self.size() ? 0 : end;
}

/// `class Name(Module):`
bool is_class_head(string_view line) {
    constexpr string_view head = "class ";
    constexpr string_view tail = "(Module):";
    return starts_with(line, head) && ends_with(line, tail) &&
           line.size() > head.size() + tail.size() &&
           is_identifier(line.substr(head.size(), line.size() - head.size() - tail.size()));
}

/// The code without the heads of classes and methods, which were read as such, and with every plain
/// string made empty.
std::string without_heads_and_strings(string_view code) {
    std::string text;
    for (std::size_t begin = 0; begin <= code.size();) {
        const std::size_t end = std::min(code.find('\n', begin), code.size());
        string_view line = code.substr(begin, end - begin);
        begin = end + 1;
        if (const std::size_t head = end_of_method_head(line); head != 0) {
            line.remove_prefix(head);
        } else if (is_class_head(line)) {
            line = {};
        }
        for (std::size_t place = 0; place < line.size(); ++place) {
            text += line[place];
            if (line[place] != '"') {
                continue;
            }
            std::size_t close = place + 1;
            while (close < line.size() && (is_word(line[close]) || line[close] == '.')) {
                ++close;
            }
            if (close < line.size() && line[close] == '"') {
                text += '"';
                place = close;
            }
        }
        text += '\n';
    }
    text.pop_back();
    return text;
}

bool is_operator(string_view name) {
    return starts_with(name, "torch.") && is_among(operators, name.substr(6));
}

/// `self.name`, or `CONSTANTS.c0`. Any other attribute could be an operator, bound to a name that
/// may be called.
bool is_attribute(string_view name) {
    return (starts_with(name, "self.") && is_identifier(name.substr(5))) ||
           (starts_with(name, "CONSTANTS.c") && is_number(name.substr(11)));
}

/// Says whether a name may stand where it does, between what is before and after it.
bool is_known(string_view name, string_view before, string_view after) {
    if (ends_with(before, ".")) {
        return is_forward(name) && ends_with(before, ").");
    }
    if (starts_with(after, "(") || after == " (") {
        return is_among(callable, name) || is_operator(name);
    }
    if (after.size() == 2 && after[0] == ' ' && is_word(after[1]) && after[1] != '_') {
        return name == "return";
    }
    // A value: a local name, an attribute of self, a class of ours.
    if (name.find('.') != string_view::npos) {
        return is_attribute(name) || torchscript::is_own_class(name);
    }
    return !is_among(bound, name) && name != "__torch__";
}

void check_names(string_view code) {
    std::size_t end_of_last = 0;
    for (std::size_t place = 0; place < code.size();) {
        if (!is_letter(code[place])) {
            ++place;
            continue;
        }
        std::size_t end = end_of_word(code, place);
        while (end + 1 < code.size() && code[end] == '.' && is_word(code[end + 1])) {
            end = end_of_word(code, end + 1);
        }
        const string_view name = code.substr(place, end - place);
        if (!is_known(name, code.substr(end_of_last, place - end_of_last), part(code, end, 2))) {
            throw Unsafe{std::string(name)};
        }
        end_of_last = place = end;
    }
}

void check_statements(string_view code) {
    for (std::size_t place = 0; place < code.size();) {
        const std::size_t end = end_of_word(code, place);
        const string_view word = code.substr(place, end - place);
        const std::size_t next = end_of_spaces(code, end);
        const bool is_assigned = next < code.size() && code[next] == '=';
        if (is_among(keywords, word) || (is_assigned && (word == "int" || is_forward(word)))) {
            throw Unsafe{"a statement that traced code does not have"};
        }
        place = std::max(end, place + 1);
    }
}

/// How deep brackets and signs are nested: torch's parser has no limit of its own.
std::ptrdiff_t nesting(string_view code) {
    std::ptrdiff_t depth = 0;
    std::ptrdiff_t deepest = 0;
    for (const char c : code) {
        depth += c == '(' || c == '[' ? 1 : c == ')' || c == ']' ? -1 : 0;
        deepest = std::max(deepest, depth);
    }
    for (std::size_t place = code.find('-'); place != string_view::npos;
         place = code.find('-', place)) {
        const std::size_t begin = place;
        int signs = 0;
        for (; place < code.size() && code[place] == '-'; ++signs) {
            place = end_of_spaces(code, end_of_digits(code, end_of_spaces(code, place + 1)));
        }
        if (signs > 1) {
            deepest = std::max(deepest, static_cast<std::ptrdiff_t>(place - begin));
        }
    }
    return deepest;
}

bool calls_something_without_a_name(string_view code) {
    for (std::size_t place = code.find_first_of("])\""); place != string_view::npos;
         place = code.find_first_of("])\"", place + 1)) {
        const std::size_t next = end_of_spaces(code, place + 1);
        if (next < code.size() && code[next] == '(') {
            return true;
        }
    }
    return false;
}

/// Adds the classes that a file of TorchScript source declares, and returns the rest of its words.
std::string read_code(string_view member, string_view code, Classes& classes) {
    check_characters(code);
    check_dunders(code);
    constexpr string_view folder = "model/code/";
    std::string module(member.substr(folder.size(), member.size() - folder.size() - 3));
    std::replace(module.begin(), module.end(), '/', '.');
    torchscript::read_classes(module, code, classes);
    return without_heads_and_strings(code);
}

/// Throws unless TorchScript source, but for its definitions, is of names and calls that are known:
/// modules call each other and operators without side effects.
void check_words(string_view code) {
    check_names(code);
    check_statements(code);
    if (nesting(code) > max_nesting) {
        throw Unsafe{"brackets nested deeper than " + std::to_string(max_nesting)};
    }
    if (calls_something_without_a_name(code)) {
        throw Unsafe{"a call of something without a name"};
    }
}

/// Throws unless a pickle is the modules that the code declares, or the tensors of its constants.
void check_pickle(string_view member, string_view data, const std::vector<Member>& members,
                  const Classes& classes) {
    const std::string folder = std::string(member.substr(0, member.size() - 4)) + "/";
    std::map<std::string, std::int64_t> storages;
    for (const auto& each : members) {
        if (starts_with(each.name, folder)) {
            storages[each.name.substr(folder.size())] = static_cast<std::int64_t>(each.size);
        }
    }
    const torchscript::Pickle pickle = torchscript::read_pickle(data, storages);
    if (member == "model/data.pkl") {
        torchscript::check_module(pickle, classes);
    } else {
        torchscript::check_constants(pickle);
    }
}

/// Calls `act`, and names the member where it finds something.
template <class Act>
void in_member(const std::string& member, Act act) {
    try {
        act();
    } catch (const Unsafe& found) {
        throw UnsafeMember{member, found.got};
    }
}

void check_members(string_view data) {
    const std::vector<Member> members = Zip(data).members();
    std::vector<const Member*> sources;
    std::vector<const Member*> pickles;
    for (const auto& member : members) {
        const bool is_source = ends_with(member.name, ".py");
        const bool is_pickle = ends_with(member.name, ".pkl");
        if ((is_source || is_pickle) && member.size > max_text) {
            throw UnsafeMember{member.name, std::to_string(member.size) + " bytes"};
        }
        if (is_source || is_pickle) {
            (is_source ? sources : pickles).push_back(&member);
        }
    }
    const auto text = [data](const Member& member) {
        return data.substr(member.start, member.size);
    };
    Classes classes;
    std::set<std::string> judged;  // most modules' words are those of another: judged once
    std::vector<std::pair<const Member*, const std::string*>> words;
    for (const Member* source : sources) {
        in_member(source->name, [&] {
            const auto [code, is_new] =
                judged.insert(read_code(source->name, text(*source), classes));
            if (is_new) {
                words.emplace_back(source, &*code);
            }
        });
    }
    for (const auto& [source, code] : words) {
        in_member(source->name, [code = code] { check_words(*code); });
    }
    for (const Member* pickle : pickles) {
        in_member(pickle->name,
                  [&] { check_pickle(pickle->name, text(*pickle), members, classes); });
    }
}

}  // namespace

void check_archive(std::string_view data, const std::string& where) {
    try {
        check_members(data);
    } catch (const UnsafeMember& found) {
        throw Error(Code::E_TORCHSCRIPT_UNSAFE, where).field(found.member).got(found.got);
    }
}

}  // namespace vitaie::detail

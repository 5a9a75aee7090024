#include "console.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "utf8.hpp"

namespace vitaie::edge {

namespace {

using detail::Code;
using detail::Error;

constexpr std::size_t many = 50;  // steps, from which on not each is named

/// A word as a shell reads it back.
std::string shell_word(const std::string& word) {
    const auto is_plain = [](char c) {
        return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
               std::string_view("@%+=:,./-_").find(c) != std::string_view::npos;
    };
    if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) {
        return word;
    }
    std::string quoted = "'";
    for (const char c : word) {
        quoted += c == '\'' ? "'\"'\"'" : std::string(1, c);
    }
    return quoted + "'";
}

}  // namespace

void throw_no_output(std::string_view got) {
    throw Error(Code::E_DISK, "standard output")
        .got(got)
        .hint("Nothing was printed in full; give it a file or a pipe that takes it.");
}

void print(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
        std::fflush(stdout) != 0) {
        throw_no_output(std::generic_category().message(errno));
    }
}

void print_line(const std::string& text) {
    print(text + "\n");
}

void print_json(const Json& document) {
    print_line(document.dump(1, ' ', true));
}

void say(const std::string& text, bool quiet) {
    if (!quiet) {
        const std::string line = detail::printable(text, 2000) + "\n";
        static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
    }
}

void suggest(bool quiet, const std::vector<std::string>& words) {
    std::string line = "next:";
    if (words.front().rfind("vitaie", 0) != 0) {
        line.append(" ").append(program);
    }
    for (const auto& word : words) {
        line.append(" ").append(shell_word(word));
    }
    say(line, quiet);
}

Steps::Steps(std::size_t count, bool quiet) : count_(count), quiet_(quiet || count >= many) {}

void Steps::operator()(const std::string& step) {
    say(std::to_string(++started_) + "/" + std::to_string(count_) + " " + step, quiet_);
}

Json error_document(const Error& error) {
    Json detail;
    detail["code"] = error.name();
    detail["exit_code"] = error.exit_code();
    detail["message"] = error.line();
    detail["where"] = error.where();
    detail["field"] = error.field();
    detail["expected"] = error.expected() ? Json(*error.expected()) : Json();
    detail["got"] = error.got() ? Json(*error.got()) : Json();
    detail["hint"] = error.hint();
    Json document;
    document["error"] = std::move(detail);
    return document;
}

std::string utf8(std::string_view path) {
    std::string text;
    while (!path.empty()) {
        const detail::Character found = detail::first_character(path);
        if (found.size != 0) {
            text += path.substr(0, found.size);
        } else {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\udc%02x",
                          static_cast<unsigned>(static_cast<unsigned char>(path.front())));
            text += escaped;
        }
        path.remove_prefix(std::max<std::size_t>(found.size, 1));
    }
    return text;
}

std::string shortest(double number) {
    return Json(number).dump();
}

std::string formatted(const char* format, double number) {
    std::array<char, 400> digits{};
    std::snprintf(digits.data(), digits.size(), format, number);
    return digits.data();
}

}  // namespace vitaie::edge

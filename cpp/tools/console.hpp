/// What every command of vitaie-edge does the same way: results to stdout, words for people to
/// stderr, one document for --json, and the next useful command at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine.hpp"
#include "error.hpp"

namespace vitaie::edge {

using Json = nlohmann::ordered_json;

inline constexpr const char* program = "vitaie-edge";

/// What every command takes.
struct Options {
    std::string bundle;
    std::string target;
    detail::EngineOptions engine;
    bool json = false;
    bool quiet = false;
};

/// Throws what printing ended with: the disk is full, or nobody listens.
[[noreturn]] void throw_no_output(std::string_view got);

/// Prints results on stdout, which must take them.
///
/// \throws detail::Error `E_DISK` it does not.
void print(const std::string& text);
void print_line(const std::string& text);

/// Prints the one document of --json, in ASCII: any terminal takes it, none is steered.
void print_json(const Json& document);

/// Prints a message for people; whether anybody listens does not matter.
void say(const std::string& text, bool quiet);

/// Names the next useful command, complete enough to copy.
///
/// \param words Its arguments; the first may be another program, when it begins with "vitaie".
void suggest(bool quiet, const std::vector<std::string>& words);

/// Names each step on stderr as it starts.
class Steps {
  public:
    Steps(std::size_t count, bool quiet);
    void operator()(const std::string& step);

  private:
    std::size_t count_;
    std::size_t started_ = 0;
    bool quiet_;
};

/// The document that --json gives for an error.
Json error_document(const detail::Error& error);

/// A path for JSON: bytes that are no UTF-8 are escaped, as JSON cannot hold them.
std::string utf8(std::string_view path);

/// A number as Python shows it.
std::string shortest(double number);

/// A number in printf's format.
std::string formatted(const char* format, double number);

}  // namespace vitaie::edge

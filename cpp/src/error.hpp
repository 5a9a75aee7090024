/// What a user can cause: one exception, with the codes and sentences that Python gives too.
///
///     throw Error(Code::E_IMAGE_TOO_LARGE, path).expected("2^26 pixels").got("30000x30000");
///
/// The codes are those of manifests/vitaie/manifests/error_codes.json, made into an enumeration
/// when the project is configured, so a code that is not listed does not compile. Anything else
/// that is thrown is a bug of ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "error_codes.hpp"

namespace vitaie::detail {

/// Returns `text` on one line: control characters escaped as Python's `unicode_escape` does, cut
/// to `limit` characters, the last of which is then an ellipsis. Bytes that are not UTF-8 come out
/// as Python's `surrogateescape` has them, `\udc80` to `\udcff`.
///
/// Names come from hostile files; what reaches a terminal must not steer it.
std::string printable(std::string_view text, std::size_t limit = 200);

/// An error. `what()` is one line: code, where, what, expected, got, what to do.
class Error : public std::exception {
  public:
    /// \param where The file, folder or argument at fault.
    Error(Code code, std::string_view where);

    /// Names the place inside `where`: a manifest's field path, such as `artifacts[2].size`.
    Error& field(std::string_view text);
    /// Says what should have been there.
    Error& expected(std::string_view text);
    Error& expected(std::int64_t number) { return expected(std::to_string(number)); }
    /// Says what was there.
    Error& got(std::string_view text);
    Error& got(std::int64_t number) { return got(std::to_string(number)); }
    /// Says what to do next.
    Error& hint(std::string_view text);

    [[nodiscard]] Code code() const { return code_; }
    /// The code as it is written: `E_MANIFEST_JSON`.
    [[nodiscard]] std::string_view name() const { return row().name; }
    [[nodiscard]] std::string_view sentence() const { return row().sentence; }
    [[nodiscard]] int exit_code() const { return row().exit_code; }
    [[nodiscard]] const std::string& where() const { return where_; }
    [[nodiscard]] const std::string& field() const { return field_; }
    [[nodiscard]] const std::optional<std::string>& expected() const { return expected_; }
    [[nodiscard]] const std::optional<std::string>& got() const { return got_; }
    [[nodiscard]] const std::string& hint() const { return hint_; }
    [[nodiscard]] const std::string& line() const { return line_; }
    [[nodiscard]] const char* what() const noexcept override { return line_.c_str(); }

  private:
    [[nodiscard]] const ErrorCode& row() const;
    Error& compose();

    Code code_;
    std::string where_;
    std::string field_;
    std::optional<std::string> expected_;
    std::optional<std::string> got_;
    std::string hint_;
    std::string line_;
};

}  // namespace vitaie::detail

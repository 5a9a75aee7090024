# Makes error_codes.hpp of manifests/vitaie/manifests/error_codes.json: one list for both languages.
#
#   vitaie_error_codes(<error_codes.json> <error_codes.hpp>)
function(vitaie_error_codes source header)
  # Configure again when the list changes.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}")
  file(READ "${source}" list)
  string(JSON count LENGTH "${list}")
  math(EXPR last "${count} - 1")
  set(names "")
  set(rows "")
  foreach(index RANGE ${last})
    string(JSON name MEMBER "${list}" ${index})
    string(JSON exit GET "${list}" ${name} exit)
    string(JSON sentence GET "${list}" ${name} sentence)
    string(REGEX REPLACE "([\\\"])" "\\\\\\1" sentence "${sentence}")
    string(APPEND names "    ${name},\n")
    string(APPEND rows "    {\"${name}\", ${exit}, \"${sentence}\"},\n")
  endforeach()
  set(text "// Generated from manifests/vitaie/manifests/error_codes.json; do not edit.
#pragma once

#include <array>
#include <string_view>

namespace vitaie::detail {

enum class Code {
${names}};

/// One row of the list: the exit code of the commands, and what is wrong, in a sentence.
struct ErrorCode {
    std::string_view name;
    int exit_code;
    std::string_view sentence;
};

/// Every error code, in the order of `Code`.
inline constexpr std::array<ErrorCode, ${count}> error_codes = {{
${rows}}};

}  // namespace vitaie::detail
")
  file(GENERATE OUTPUT "${header}" CONTENT "${text}")
endfunction()

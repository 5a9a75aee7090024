// An error is one printable line, with the code and the sentence that Python gives.
#include <catch2/catch.hpp>
#include <string>

#include "error.hpp"
#include "json.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using namespace vitaie::detail::test;

TEST_CASE("the table is error_codes.json, row by row") {
    const auto list =
        json::parse_object(read_file(VITAIE_ERROR_CODES), "error_codes.json", std::size_t{1} << 20);
    REQUIRE(list.size() == error_codes.size());
    for (const auto& row : error_codes) {
        INFO(row.name);
        const auto* listed = json::find(list, row.name);
        REQUIRE(listed != nullptr);
        const auto& members = *listed->as<json::Object>();
        CHECK(*json::find(members, "exit")->as<std::int64_t>() == row.exit_code);
        CHECK(*json::find(members, "sentence")->as<std::string>() == row.sentence);
    }
}

TEST_CASE("a line says code, where, what, expected, got, and what to do") {
    CHECK(Error(Code::E_MANIFEST_MISSING, "m").line() ==
          "E_MANIFEST_MISSING: m: there is no manifest.json.");
    Error error(Code::E_BUNDLE_FILE_SIZE, "labels.txt");
    error.field("chunk 1").expected("3 bytes").got(4).hint("Fetch it again.");
    CHECK(error.line() ==
          "E_BUNDLE_FILE_SIZE: labels.txt: chunk 1: the file's size is not the one in the manifest "
          "(expected 3 bytes, got 4). Fetch it again.");
    CHECK(error.exit_code() == 1);
    CHECK(std::string(error.what()) == error.line());
    CHECK(Error(Code::E_MEMORY, "x").got("").line() ==
          "E_MEMORY: x: there is not enough memory (got ).");
}

TEST_CASE("what is not printable is escaped") {
    CHECK(printable("a b é 名 😀 \\") == "a b é 名 😀 \\");
    CHECK(printable("a\n\t\r\x1b[31m\x7f") == "a\\n\\t\\r\\x1b[31m\\x7f");
    CHECK(printable("\u00a0\u200b\u2028\U000E0001") == "\\xa0\\u200b\\u2028\\U000e0001");
    CHECK(printable("\xFF\xE2\x82") == "\\udcff\\udce2\\udc82");
    CHECK(printable(std::string_view("\0", 1)) == "\\x00");
}

TEST_CASE("long text is cut to its limit, an ellipsis the last character") {
    const std::string whole(200, 'x');
    CHECK(printable(whole) == whole);
    CHECK(printable(whole + "x") == std::string(199, 'x') + "…");
    CHECK(printable(std::string(500, '\n')) == printable(std::string(250, '\n')));
    CHECK(printable("éééé", 3) == "éé…");
    CHECK(printable("a\n", 2) == "a…");
}

// JSON is read as RFC 8259 has it, and what two parsers could read in two ways is refused.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>

#include "json.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using namespace vitaie::detail::test;

namespace {

json::Object parse(std::string_view text) {
    return json::parse_object(text, "manifest.json", std::size_t{1} << 20);
}

/// Returns the value of `text`, which is parsed as the one member of an object.
json::Value value(const std::string& text) {
    return parse("{\"v\":" + text + "}")[0].value;
}

std::string judged(const std::string& text) {
    return verdict([&] { value(text); });
}

double real(const std::string& text) {
    return *value(text).as<double>();
}

}  // namespace

TEST_CASE("values keep their types") {
    CHECK(value("null").as<std::nullptr_t>() != nullptr);
    CHECK(*value("true").as<bool>());
    CHECK_FALSE(*value("false").as<bool>());
    CHECK(*value("-0").as<std::int64_t>() == 0);
    CHECK(*value("9007199254740991").as<std::int64_t>() == json::max_int);
    CHECK(*value("-9007199254740991").as<std::int64_t>() == -json::max_int);
    CHECK(value("1.0").as<std::int64_t>() == nullptr);
    CHECK(value("1e0").as<std::int64_t>() == nullptr);
    CHECK(value(" [ 1 , [ ] , { } ] ").as<json::Array>()->size() == 3);
}

TEST_CASE("reals are rounded to the nearest double") {
    CHECK(real("0.1") == 0.1);
    CHECK(real("1.7976931348623157e308") == 1.7976931348623157e308);
    CHECK(real("4.9e-324") == 4.9e-324);
    CHECK(real("9007199254740993.0") == 9007199254740992.0);
    CHECK(real("2.2250738585072011e-308") == 2.2250738585072011e-308);
}

TEST_CASE("a real below all doubles is zero, with its sign") {
    for (const char* text :
         {"1e-400", "0.0", "0e999999999999999999999", "1e-99999999999999999999"}) {
        CHECK(real(text) == 0);
        CHECK_FALSE(std::signbit(real(text)));
    }
    CHECK(real("0." + std::string(400, '0') + "1") == 0);
    CHECK(std::signbit(real("-1e-400")));
}

TEST_CASE("a number that no double or no exact integer holds is refused where it stands") {
    for (const char* text :
         {"1e400", "-1e400", "1e99999999999999999999", "NaN", "Infinity", "-Infinity",
          "9007199254740992", "-9007199254740992", "99999999999999999999999999"}) {
        INFO(text);
        CHECK(judged(text) == "E_MANIFEST_NUMBER v");
        CHECK(judged("[0, {\"a\": " + std::string(text) + "}]") == "E_MANIFEST_NUMBER v[1].a");
    }
    CHECK(judged(std::string(400, '9') + ".0") == "E_MANIFEST_NUMBER v");
    CHECK(judged(std::string(100000, '9')) == "E_MANIFEST_NUMBER v");
}

TEST_CASE("what is no JSON is refused") {
    for (const char* text :
         {"",     "01",   "+1",      "1.",        ".5",          "1e",          "1e+",    "-",
          "- 1",  "--1",  "0x1",     "nul",       "tru",         "True",        "nan",    "-NaN",
          "inf",  "\"",   "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u+123\"", "\"\n\"", "'a'",
          "[1,]", "[,1]", "[1 2]",   "{\"a\" 1}", "{\"a\":1,}",  "{a:1}",       "{1:1}",  "1 1",
          "//",   "\f1"}) {
        INFO(text);
        CHECK(judged(text) == "E_MANIFEST_JSON");
    }
    CHECK(verdict([] { parse("{} {}"); }) == "E_MANIFEST_JSON");
    CHECK(verdict([] { parse(std::string_view("{}\0", 3)); }) == "E_MANIFEST_JSON");
}

TEST_CASE("strings are decoded, with every escape") {
    CHECK(*value(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00")").as<std::string>() ==
          "\"\\/\b\f\n\r\tA\u00e9\U0001F600");
}

TEST_CASE("half a character or a NUL is refused where it stands, in a key where its object does") {
    for (const char* text : {R"("\ud800")", R"("\udc00")", R"("\ud800\ud800")", R"("\udc00\ud800")",
                             R"("\ud800x")", R"("\u0000")"}) {
        INFO(text);
        CHECK(judged(text) == "E_MANIFEST_STRING v");
        CHECK(judged("{" + std::string(text) + ": 1}") == "E_MANIFEST_STRING v");
    }
}

TEST_CASE("bytes that are not UTF-8 are refused before all else") {
    for (const char* text : {"\"\x80\"", "\"\xC0\xAF\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                             "\"\xE2\x82\"", "\xFF"}) {
        CHECK(judged(text) == "E_MANIFEST_ENCODING");
    }
    CHECK(verdict([] { parse("\xEF\xBB\xBF{}"); }) == "E_MANIFEST_ENCODING");
}

TEST_CASE("a key twice is refused, in whatever spelling") {
    CHECK(judged(R"({"a": 1, "b": 2, "a": 1})") == "E_MANIFEST_DUPLICATE_KEY v.a");
    CHECK(judged(R"([{"a": 1, "\u0061": 1}])") == "E_MANIFEST_DUPLICATE_KEY v[0].a");
}

TEST_CASE("the first fault in the order of the text is named, and syntax before all of them") {
    CHECK(judged(R"([1e400, "\ud800"])") == "E_MANIFEST_NUMBER v[0]");
    CHECK(judged(R"(["\ud800", 1e400])") == "E_MANIFEST_STRING v[0]");
    CHECK(judged(R"([1e400, "\ud800",])") == "E_MANIFEST_JSON");
}

TEST_CASE("nesting is at most 16 deep, brackets in strings not counted") {
    const auto nested = [](std::size_t depth) {
        return std::string(depth, '[') + std::string(depth, ']');
    };
    CHECK(judged(nested(15)) == "ok");  // the object around them is one
    CHECK(judged(nested(16)) == "E_MANIFEST_DEPTH");
    CHECK(judged(std::string(100000, '[')) == "E_MANIFEST_DEPTH");
    CHECK(judged(R"("[[[[[[[[[[[[[[[[[[\"[[[[\\\"{{{")") == "ok");
}

TEST_CASE("the whole is an object of at most the given size") {
    CHECK(verdict([] { parse("[]"); }) == "E_MANIFEST_NOT_OBJECT");
    CHECK(verdict([] { parse(""); }) == "E_MANIFEST_JSON");
    CHECK(verdict([] { json::parse_object("{ }", "m", 3); }) == "ok");
    CHECK(verdict([] { json::parse_object("{  }", "m", 3); }) == "E_MANIFEST_TOO_LARGE");
}

TEST_CASE("a key as long as the text costs no more than its length") {
    // A path made for each element would take 250,000 times half a megabyte.
    std::string text = "{\"" + std::string(500000, 'k') + "\":[0";
    for (int count = 0; count < 250000; ++count) {
        text += ",0";
    }
    CHECK(parse(text + "]}").size() == 1);
}

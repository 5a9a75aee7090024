// Digests are those of docs/bundle-format.md, whatever the order of keys and the way of numbers.
#include <catch2/catch.hpp>
#include <string>

#include "digest.hpp"
#include "json.hpp"
#include "support.hpp"

using namespace vitaie::detail;

namespace {

std::string canonical_of(const std::string& text) {
    return canonical({json::parse_object(text, "text", 4096)});
}

}  // namespace

TEST_CASE("sha256 is that of FIPS 180-4") {
    CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("the canonical text of the format's example has the digest given there") {
    const std::string text = canonical_of(R"({"b": [1, 0.5, true, null], "a": "é\n"})");
    CHECK(text == "{\"a\":\"é\\n\",\"b\":[3ff0000000000000,3fe0000000000000,true,null]}");
    CHECK(sha256(text) == "70fd2e7754d57f773a8a512df901ab037297c3846ee2c54f1a493c451d02d886");
}

TEST_CASE("equal numbers have one canonical text") {
    CHECK(canonical_of(R"({"v": [84, 84.0, 840e-1]})") ==
          "{\"v\":[4055000000000000,4055000000000000,4055000000000000]}");
    CHECK(canonical_of(R"({"v": [0, -0, 0.0, -0.0]})") ==
          "{\"v\":[0000000000000000,0000000000000000,0000000000000000,0000000000000000]}");
}

TEST_CASE("keys are sorted by code point, not by UTF-16") {
    CHECK(canonical_of(R"({"😀": true, "ﬁ": true, "a": true, "": true})") ==
          R"({"":true,"a":true,"ﬁ":true,"😀":true})");
}

TEST_CASE("strings are escaped as the format says, and no more") {
    CHECK(canonical_of(R"({"v": "\u0001\u001f\u007f\b\f\n\r\t\"\\\/<é"})") ==
          "{\"v\":\"\\u0001\\u001f\x7F\\b\\f\\n\\r\\t\\\"\\\\/<é\"}");
}

TEST_CASE("the manifest's digest is of its bytes with its own digits as zeros") {
    const std::string zeros(64, '0');
    const std::string digits = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const auto with = [](const std::string& value) {
        return "{\"manifest_digest\" :\r\n\t \"" + value + "\"}";
    };
    CHECK(manifest_digest(with(digits)) == sha256(with(zeros)));
    CHECK(manifest_digest(with(digits)) == manifest_digest(with(zeros)));
    for (const std::string& other :
         {with(digits + "0"), with(digits.substr(1)), with("A" + digits.substr(1)),
          with(digits) + with(digits), std::string("{}"), std::string("\"manifest_digest\""),
          "\"manifest_digest\" \"" + digits + "\"", "\"manifest_digest\":\"" + digits}) {
        CHECK_FALSE(manifest_digest(other).has_value());
    }
}

// Of NumPy's format, only what numpy.save writes for a golden's logits is read.
#include <catch2/catch.hpp>
#include <string>

#include "npy.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using vitaie::detail::test::replace;

namespace {

std::string file(std::size_t count) {
    return npy_header({count}) + std::string(4 * count, 'x');
}

}  // namespace

TEST_CASE("a header is padded to a multiple of 64 bytes") {
    const std::string header = npy_header({3, 224, 224});
    CHECK(header.size() == 128);
    CHECK(header.substr(0, 10) == std::string("\x93NUMPY\x01\x00\x76\x00", 10));
    CHECK(header.substr(10, 66) ==
          "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 224, 224), }");
    CHECK(header.back() == '\n');
    CHECK(npy_header({}).find("'shape': (), }") != std::string::npos);
    CHECK(npy_header({7}).find("'shape': (7,), }") != std::string::npos);
}

TEST_CASE("what was written is read") {
    for (const std::size_t count : {1, 5, 1000, 21843}) {
        CHECK(npy_numbers(file(count), count) == npy_header({count}).size());
    }
}

TEST_CASE("anything else is refused") {
    const std::string good = file(5);
    const auto changed = [&](std::string_view old, std::string_view fresh) {
        std::string data = good;
        replace(data, old, fresh);
        return data;
    };
    CHECK_FALSE(npy_numbers(good, 4));
    CHECK_FALSE(npy_numbers(good + "x", 5));
    CHECK_FALSE(npy_numbers(good.substr(1), 5));
    for (std::size_t size = 0; size < good.size(); ++size) {
        CHECK_FALSE(npy_numbers(good.substr(0, size), 5));
    }
    CHECK_FALSE(npy_numbers(changed("<f4", ">f4"), 5));
    CHECK_FALSE(npy_numbers(changed("<f4", "<f8"), 5));
    CHECK_FALSE(npy_numbers(changed("False", "True "), 5));
    CHECK_FALSE(npy_numbers(changed("(5,)", "(6,)"), 5));
    CHECK_FALSE(npy_numbers(changed("(5,)", "(5) "), 5));
    CHECK_FALSE(npy_numbers(changed("(5,), }", "(05,),}"), 5));
    CHECK_FALSE(npy_numbers(changed(" \n", "\n\n"), 5));
    CHECK_FALSE(npy_numbers(changed(" \n", "  "), 5));
    CHECK_FALSE(npy_numbers(changed("\x01", "\x02"), 5));
    CHECK_FALSE(npy_numbers(changed("\x76", "\x75"), 5));
}

// When a target is the same as the source model; the figures are tested by pytest, on engines.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "verify.hpp"

using namespace vitaie::detail;

namespace {

Comparison near(std::optional<double> least) {
    Comparison found;
    found.tolerance = {least ? 0.05 : 1e-3, least};
    found.images = 11;
    found.difference = 1e-4;
    found.distance = 1e-3;
    found.cosine = 0.9999;
    return found;
}

}  // namespace

TEST_CASE("in full precision the difference decides", "[verify]") {
    Comparison found = near(std::nullopt);
    CHECK(found.same());
    found.cosine = 0.5;
    found.distance = 2;
    CHECK(found.same());
    found.difference = 1.1e-3;
    CHECK_FALSE(found.same());
    found.tolerance.max_rel_diff = 2e-3;  // which proves nothing
    CHECK_FALSE(found.same());
}

TEST_CASE("in reduced precision cosine, distance and difference decide", "[verify]") {
    const double infinity = std::numeric_limits<double>::infinity();
    Comparison found = near(0.999);
    CHECK(found.same());
    found.distance = std::sqrt(2 - 2 * 0.999);
    CHECK(found.same());
    found.distance = std::nextafter(found.distance, infinity);
    CHECK_FALSE(found.same());
    found = near(0.999);
    found.cosine = 0.9989;
    CHECK_FALSE(found.same());
    found = near(0.999);
    found.difference = 0.051;
    CHECK_FALSE(found.same());
    found = near(0.98);  // an angle that proves nothing
    CHECK_FALSE(found.same());
    found = near(0.999);
    found.tolerance.max_rel_diff = 0.11;
    CHECK_FALSE(found.same());
}

TEST_CASE("another first class beyond the tolerance is not the same", "[verify]") {
    for (const auto& least : {std::optional<double>(), std::optional<double>(0.999)}) {
        Comparison found = near(least);
        found.flipped = 1;
        CHECK_FALSE(found.same());
    }
}

// Logits become classes as in Python; archives and engines are tested by pytest beside it.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "engine.hpp"
#include "model.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using namespace vitaie::detail::test;

namespace {

std::vector<Label> labels(std::size_t count) {
    std::vector<Label> made;
    for (std::size_t index = 0; index < count; ++index) {
        made.push_back({"c" + std::to_string(index), "class " + std::to_string(index)});
    }
    return made;
}

std::vector<std::int64_t> order(const std::vector<float>& logits, std::size_t k) {
    const auto names = labels(logits.size());
    std::vector<std::int64_t> found;
    for (const auto& each : best(logits.data(), names, k)) {
        CHECK(each.label == &names[static_cast<std::size_t>(each.index)]);
        found.push_back(each.index);
    }
    return found;
}

}  // namespace

TEST_CASE("classes come by their logits, and equal ones by their index") {
    using Order = std::vector<std::int64_t>;
    CHECK(order({1, 3, 2}, 3) == Order{1, 2, 0});
    CHECK(order({2, 3, 3, 2, 3}, 5) == Order{1, 2, 4, 0, 3});
    CHECK(order({2, 3, 3, 2, 3}, 2) == Order{1, 2});
    CHECK(order({-0.0F, 0.0F, -1}, 2) == Order{0, 1});
}

TEST_CASE("no more classes are given than there are") {
    CHECK(order({1, 2}, 5).size() == 2);
    CHECK(order({1, 2}, static_cast<std::size_t>(-1)).size() == 2);
}

TEST_CASE("probabilities are those of the softmax in double precision") {
    const auto names = labels(3);
    const std::vector<float> logits = {1, 2, 3};
    const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
    const auto found = best(logits.data(), names, 3);
    for (const auto& each : found) {
        const double expected =
            std::exp(static_cast<double>(logits[static_cast<std::size_t>(each.index)])) / sum;
        CHECK(each.probability == Approx(expected).epsilon(1e-15));
    }
}

TEST_CASE("logits that exp cannot take give probabilities all the same") {
    const auto names = labels(2);
    const std::vector<float> logits = {3e38F, -3e38F};
    const auto found = best(logits.data(), names, 2);
    CHECK(found[0].probability == 1);
    CHECK(found[1].probability == 0);
}

TEST_CASE("threads are 1 to 1024, or left to the engine") {
    for (const std::int64_t count : {0, 1, 1024}) {
        CHECK(verdict([count] { check_options({count, 0}); }) == "ok");
    }
    for (const std::int64_t count : {-1, 1025}) {
        CHECK(verdict([count] { check_options({count, 0}); }) == "E_ARGUMENT");
    }
}

TEST_CASE("a target is named or refused, and nothing else is run instead") {
    const Manifest manifest = parse_manifest(
        read_file(std::filesystem::path(VITAIE_VECTORS) / "002-unmeasured-ok" / "manifest.json"));
    const auto chosen = [&](const std::string& id) {
        return verdict([&] { choose_target(manifest, id); });
    };
    CHECK(chosen("no such") == "E_TARGET_UNKNOWN");
    CHECK(chosen("") == "E_TARGET_UNKNOWN");
    CHECK(chosen("cpu") == "E_TARGET_UNAVAILABLE");
    CHECK(chosen("onnxruntime-cpu-fp32") == "E_TARGET_UNAVAILABLE");
}

// The vectors are the law that every reader of a manifest obeys.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "json.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using namespace vitaie::detail::test;

TEST_CASE("every vector is judged as expected, to the code and the field path") {
    std::vector<std::filesystem::path> folders;
    for (const auto& entry : std::filesystem::directory_iterator(VITAIE_VECTORS)) {
        folders.push_back(entry.path());
    }
    std::sort(folders.begin(), folders.end());
    REQUIRE(folders.size() == 404);
    for (const auto& folder : folders) {
        INFO(folder.filename());
        const auto expected =
            json::parse_object(read_file(folder / "expected.json"), "expected.json", 4096);
        const auto text = [&](const char* key) {
            return *json::find(expected, key)->as<std::string>();
        };
        std::string wanted = "ok";
        if (!*json::find(expected, "ok")->as<bool>()) {
            const std::string field = printable(text("field"));
            wanted = text("code").append(field.empty() ? "" : " ") + field;
        }
        const std::string data = read_file(folder / "manifest.json");
        CHECK(verdict([&] { parse_manifest(data); }) == wanted);
    }
}

TEST_CASE("what a manifest says stands in its struct") {
    const auto folder = std::filesystem::path(VITAIE_VECTORS) / "013-options-of-every-kind-ok";
    const Manifest manifest = parse_manifest(read_file(folder / "manifest.json"));
    CHECK(manifest.format == "vitaie-bundle");
    CHECK(manifest.name == "vit_tiny_digits");
    CHECK(manifest.model.classes == 10);
    CHECK(manifest.inputs[0].shape == std::vector<std::int64_t>{batch_dimension, 3, 32, 32});
    CHECK(manifest.preprocess.std == std::array<double, 3>{0.5, 0.25, 0.1});
    CHECK(manifest.artifact("model.ts").chunks.size() == 2);
    CHECK(manifest.goldens[0].credit == "Zoë Example, CC0");
    CHECK(manifest.expected.accuracy[0].top1 == 97.5);
    CHECK_FALSE(manifest.expected.accuracy[0].top5.has_value());
    CHECK(manifest.toolchain.packages.at("torch") == "2.13.0");
    const std::map<std::string, Option> options = {
        {"a", true},
        {"b", std::int64_t{1}},
        {"c", std::string("1")},
        {"d", false},
        {"e", std::int64_t{0}},
        {"f", std::string()},
        {"g", std::int64_t{-7}},
    };
    CHECK((manifest.targets[0].options == options));
}

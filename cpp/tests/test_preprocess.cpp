// Preprocessing without files: kernels, views of other people's memory, sizes, refusals. That the
// pixels are Python's is tested by tests/test_cpp_preprocess.py.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include "preprocess.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using vitaie::detail::test::verdict;

namespace {

Preprocess spec(const std::string& mode, std::int64_t resize, std::int64_t crop) {
    Preprocess chosen;
    chosen.resize.mode = mode;
    chosen.resize.size = resize;
    chosen.crop.size = crop;
    chosen.scale = 255;
    chosen.mean = {0.485, 0.456, 0.406};
    chosen.std = {0.229, 0.224, 0.225};
    return chosen;
}

const Preprocess timm = spec("shorter_side", 248, 224);
const Preprocess modelzoo = spec("square", 248, 224);

/// Bytes in a heap block of their exact size, so that a sanitizer sees the first byte read past.
std::vector<std::uint8_t> noise(std::int64_t size, unsigned seed) {
    std::mt19937 generator(seed);
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
    for (std::uint8_t& byte : bytes) {
        const auto value = static_cast<unsigned>(generator());
        // Half of them black or white, where a bicubic sum leaves the range of a byte.
        byte = static_cast<std::uint8_t>(value & 256U ? value : value & 1U ? 255U : 0U);
    }
    return bytes;
}

std::vector<float> tensor(const ImageView& view, const Preprocess& chosen) {
    std::vector<float> values(static_cast<std::size_t>(3 * chosen.crop.size * chosen.crop.size));
    preprocess(view, chosen, values.data());
    return values;
}

std::vector<std::uint8_t> pixels(const Image& image) {
    return {image.row(0), image.row(0) + image.bytes().size};
}

}  // namespace

TEST_CASE("every kernel gives the same pixels, and reads no byte past a view") {
    std::mt19937 generator(5);
    std::uniform_real_distribution<double> exponent(0.0, 10.0);
    for (unsigned round = 0; round < 60; ++round) {
        const auto width = static_cast<std::int64_t>(std::exp2(exponent(generator)));
        const auto height = static_cast<std::int64_t>(std::exp2(exponent(generator)));
        const auto bytes = noise(3 * width * height, round);
        const ImageView view = {bytes.data(), width, height, 3 * width};
        const auto size = 1 + static_cast<std::int64_t>(generator() % 40);
        const Preprocess square = spec("square", size + round % 7, size);
        CAPTURE(width, height, size);
        const auto expected = pixels(crop(view, square, "noise", scalar_kernels));
        CHECK(pixels(crop(view, square, "noise", best_kernels())) == expected);
    }
}

TEST_CASE("one colour stays that colour") {
    for (const auto& [width, height] : {std::pair{1, 1}, {1, 9}, {500, 3}, {248, 248}, {31, 700}}) {
        const std::vector<std::uint8_t> bytes(static_cast<std::size_t>(3 * width * height), 201);
        const auto made = pixels(crop({bytes.data(), width, height, 3 * width}, modelzoo));
        CHECK(made == std::vector<std::uint8_t>(224 * 224 * 3, 201));
    }
}

TEST_CASE("a view's rows may lie apart and its channels the other way round") {
    constexpr std::int64_t width = 301;
    constexpr std::int64_t height = 277;
    const auto packed = noise(3 * width * height, 1);
    const std::int64_t stride = 3 * width + 41;
    auto apart = noise(stride * (height - 1) + 3 * width, 2);
    for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t index = 0; index < 3 * width; ++index) {
            const std::int64_t swapped = index - index % 3 + (2 - index % 3);
            apart[static_cast<std::size_t>(y * stride + index)] =
                packed[static_cast<std::size_t>(3 * width * y + swapped)];
        }
    }
    for (const Preprocess& chosen : {timm, modelzoo, spec("shorter_side", 277, 100)}) {
        const ImageView view = {apart.data(), width, height, stride, PixelOrder::bgr};
        const auto expected = tensor({packed.data(), width, height, 3 * width}, chosen);
        CHECK(tensor(view, chosen) == expected);
    }
}

TEST_CASE("a tensor is float32 in the stated order, one plane for each channel") {
    std::vector<std::uint8_t> bytes(3 * 16 * 16);
    for (std::size_t index = 0; index < bytes.size(); ++index) {
        bytes[index] = static_cast<std::uint8_t>(index / 3);
    }
    const auto values = tensor({bytes.data(), 16, 16, 48}, spec("square", 16, 16));
    REQUIRE(values.size() == 3 * 256);
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const float mean = std::array{0.485F, 0.456F, 0.406F}[channel];
        const float deviation = std::array{0.229F, 0.224F, 0.225F}[channel];
        for (std::size_t value = 0; value < 256; ++value) {
            // volatile: each step is rounded to float32, whatever the compiler is told
            volatile float step = static_cast<float>(value) / 255.0F;
            step = step - mean;
            step = step / deviation;
            CHECK(values[256 * channel + value] == step);
        }
    }
}

TEST_CASE("sizes and offsets round as torchvision's do") {
    using Case = std::tuple<std::int64_t, std::int64_t, std::array<std::int64_t, 4>>;
    for (const auto& [width, height, expected] :
         {Case{1, 1, {248, 248, 12, 12}}, Case{500, 375, {330, 248, 53, 12}},
          Case{375, 500, {248, 330, 12, 53}}, Case{640, 427, {371, 248, 74, 12}},
          Case{427, 637, {248, 369, 12, 72}}, Case{248, 300, {248, 300, 12, 38}}}) {
        const Resampling made = plan(width, height, timm);
        CHECK(std::array{made.width, made.height, made.left, made.top} == expected);
    }
    const Resampling square = plan(4000, 10, modelzoo);
    CHECK(std::array{square.width, square.height, square.left, square.top} ==
          std::array<std::int64_t, 4>{248, 248, 12, 12});
}

TEST_CASE("no step of the resize may have more than 2^26 pixels") {
    using Case = std::tuple<std::int64_t, std::int64_t, const Preprocess*, bool>;
    const Preprocess endless = spec("shorter_side", (std::int64_t{1} << 53) - 1, 224);
    const Preprocess square = spec("square", 8193, 224);
    for (const auto& [width, height, chosen, refused] :
         {Case{1, 3000, &timm, true}, Case{3000, 1, &timm, true}, Case{1, 3000, &modelzoo, false},
          Case{1, 1091, &timm, false}, Case{1, 1092, &timm, true}, Case{65535, 1, &timm, true},
          Case{65535, 1, &modelzoo, false}, Case{270600, 1, &modelzoo, false},
          Case{270601, 1, &modelzoo, true}, Case{1, 270601, &modelzoo, true},
          Case{5, 5, &endless, true}, Case{5, 5, &square, true}}) {
        CAPTURE(width, height);
        const auto act = [&, w = width, h = height, s = chosen] { plan(w, h, *s); };
        CHECK(verdict(act) == (refused ? "E_IMAGE_TOO_LARGE" : "ok"));
    }
}

TEST_CASE("memory used again holds no more than a thread may keep") {
    std::vector<Buffer> buffers;
    for (std::size_t size = 1; size <= 2 * Buffer::largest_kept; size *= 3) {
        buffers.emplace_back(size);
        std::memset(buffers.back().data(), 7, size);
    }
    const std::uint8_t* const last = buffers.back().data();
    Buffer moved = std::move(buffers.back());
    CHECK(moved.data() == last);
    buffers.clear();
    for (std::size_t size = 1; size <= 2 * Buffer::largest_kept; size *= 2) {
        const Buffer buffer(size);
        std::memset(buffer.data(), 8, size);  // as large as asked for, a sanitizer says
    }
}

TEST_CASE("a view that cannot be an image is refused") {
    const std::vector<std::uint8_t> bytes(12);
    const auto judged = [&](const ImageView& view) {
        return verdict([&] { crop(view, modelzoo); });
    };
    CHECK(judged({bytes.data(), 2, 2, 6}) == "ok");
    CHECK(judged({nullptr, 2, 2, 6}) == "E_IMAGE_ARRAY");
    CHECK(judged({bytes.data(), 0, 2, 6}) == "E_IMAGE_ARRAY");
    CHECK(judged({bytes.data(), 2, -1, 6}) == "E_IMAGE_ARRAY");
    CHECK(judged({bytes.data(), 2, 2, 5}) == "E_IMAGE_ARRAY");
    CHECK(judged({bytes.data(), 2, 2, -6}) == "E_IMAGE_ARRAY");
    CHECK(judged({bytes.data(), 1 << 13, (1 << 13) + 1, 3 << 13}) == "E_IMAGE_TOO_LARGE");
}

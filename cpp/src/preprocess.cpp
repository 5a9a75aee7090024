#include "preprocess.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <utility>

namespace vitaie::detail {

namespace {

/// `longer` scaled as `shorter` is to `size`; both operands are integers that a double holds.
std::int64_t scaled(std::int64_t size, std::int64_t longer, std::int64_t shorter) {
    return static_cast<std::int64_t>(static_cast<double>(size * longer) /
                                     static_cast<double>(shorter));
}

/// Half of a number that is not negative, rounded half to even.
std::int64_t half_to_even(std::int64_t number) {
    const std::int64_t half = number / 2;
    return number % 2 == 1 && half % 2 == 1 ? half + 1 : half;
}

Error too_large(std::int64_t width, std::int64_t height, std::int64_t resized_width,
                std::int64_t resized_height, std::string_view where) {
    const auto text = [](std::int64_t w, std::int64_t h) {
        return std::to_string(w) + "x" + std::to_string(h);
    };
    return Error(Code::E_IMAGE_TOO_LARGE, where)
        .got(text(width, height) + " pixels, resized to " + text(resized_width, resized_height));
}

void swap_red_and_blue(Image& image) {
    std::uint8_t* pixel = image.row(0);
    for (std::int64_t count = image.width() * image.height(); count > 0; --count, pixel += 3) {
        std::swap(pixel[0], pixel[2]);
    }
}

using Table = std::array<float, 256>;

/// The value of each byte, in float32 and in the order that the bundle's format states.
Table table(const Preprocess& spec, std::size_t channel) {
    const auto scale = static_cast<float>(spec.scale);
    const auto mean = static_cast<float>(spec.mean[channel]);
    const auto deviation = static_cast<float>(spec.std[channel]);
    Table values;
    for (std::size_t byte = 0; byte < values.size(); ++byte) {
        values[byte] = (static_cast<float>(byte) / scale - mean) / deviation;
    }
    return values;
}

}  // namespace

Resampling plan(std::int64_t width, std::int64_t height, const Preprocess& spec,
                std::string_view where) {
    const std::int64_t size = spec.resize.size;
    std::int64_t resized_width = size;
    std::int64_t resized_height = size;
    // A size over the limit is refused below, whatever the longer side would be.
    if (spec.resize.mode == "shorter_side" && size <= max_pixels) {
        if (width <= height) {
            resized_height = scaled(size, height, width);
        } else {
            resized_width = scaled(size, width, height);
        }
    }
    const auto is_over = [](std::int64_t a, std::int64_t b) { return a > max_pixels / b; };
    if (is_over(resized_width, resized_height) || is_over(resized_width, height) ||
        is_over(width, resized_height)) {
        throw too_large(width, height, resized_width, resized_height, where);
    }
    return {resized_width, resized_height, half_to_even(resized_width - spec.crop.size),
            half_to_even(resized_height - spec.crop.size), spec.crop.size};
}

Image crop(const ImageView& image, const Preprocess& spec, std::string_view where,
           const Kernels& kernels) {
    check_view(image, where);
    Image pixels = resample(image, plan(image.width, image.height, spec, where), kernels);
    if (image.order == PixelOrder::bgr) {
        swap_red_and_blue(pixels);
    }
    return pixels;
}

void normalize(const Image& crop, const Preprocess& spec, float* out) {
    const std::array<Table, 3> tables = {table(spec, 0), table(spec, 1), table(spec, 2)};
    const std::int64_t count = crop.width() * crop.height();
    const std::uint8_t* pixel = crop.row(0);
    for (std::int64_t index = 0; index < count; ++index, pixel += 3) {
        out[index] = tables[0][pixel[0]];
        out[count + index] = tables[1][pixel[1]];
        out[2 * count + index] = tables[2][pixel[2]];
    }
}

void preprocess(const ImageView& image, const Preprocess& spec, float* out, std::string_view where,
                const Kernels& kernels) {
    normalize(crop(image, spec, where, kernels), spec, out);
}

}  // namespace vitaie::detail

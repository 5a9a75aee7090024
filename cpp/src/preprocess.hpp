/// An image to the tensor a model takes, the same bits as Python's `vitaie.runtime` gives.
///
///     const Image image = decode_file("cat.jpg");
///     std::vector<float> values(3 * 224 * 224);
///     preprocess(image.view(), manifest.preprocess, values.data(), "cat.jpg");
#pragma once

#include <cstdint>
#include <string_view>

#include "image.hpp"
#include "manifest.hpp"
#include "resample.hpp"

namespace vitaie::detail {

/// How an image of this size is resized and cropped, rounded as torchvision (v1) does: the
/// longer side is cut to an integer, the offsets round half to even.
///
/// \throws Error E_IMAGE_TOO_LARGE: the resized image, or one resized along one axis only,
///     would have more than 2^26 pixels.
Resampling plan(std::int64_t width, std::int64_t height, const Preprocess& spec,
                std::string_view where = "image");

/// Returns the exact pixels that the model sees of an image: RGB, a square of `spec.crop.size`.
///
/// \throws Error E_IMAGE_ARRAY, E_IMAGE_TOO_LARGE.
Image crop(const ImageView& image, const Preprocess& spec, std::string_view where = "image array",
           const Kernels& kernels = best_kernels());

/// Writes a crop as float32, `((v / 255) - mean) / std`: row-major [3, size, size].
void normalize(const Image& crop, const Preprocess& spec, float* out);

/// Writes what the model sees of an image: float32, row-major [3, size, size].
///
/// \throws Error As `crop`; nothing is written then.
void preprocess(const ImageView& image, const Preprocess& spec, float* out,
                std::string_view where = "image array", const Kernels& kernels = best_kernels());

}  // namespace vitaie::detail

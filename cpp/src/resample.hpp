/// Pillow's 8-bit two-pass bicubic resize, horizontal pass first, to the bit.
///
/// Only the rows and columns that a rectangle of the result depends on are computed. The
/// arithmetic is Pillow's (src/libImaging/Resample.c): coefficients in double, rounded to
/// integers of 22 fractional bits, sums of 32 bits, rounded and clamped to a byte after each pass.
/// Integers add up to the same sum in any order, so SIMD kernels give the same bits.
#pragma once

#include <cstdint>

#include "image.hpp"
#include "resample_kernels.hpp"

namespace vitaie::detail {

/// A resize and the rectangle that is wanted of it, in pixels.
struct Resampling {
    std::int64_t width;   ///< of the whole resized image
    std::int64_t height;  ///< of the whole resized image
    std::int64_t left;
    std::int64_t top;
    std::int64_t size;  ///< of the square rectangle, which lies inside the resized image
};

/// The kernels for this machine's processor.
const Kernels& best_kernels();

/// Returns the rectangle, its channels in the source's order.
Image resample(const ImageView& source, const Resampling& wanted, const Kernels& kernels);

}  // namespace vitaie::detail

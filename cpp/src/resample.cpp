#include "resample.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

namespace vitaie::detail {

namespace {

/// Pillow's bicubic kernel, a = -0.5, in its order of operations.
double bicubic(double x) {
    constexpr double a = -0.5;
    x = x < 0.0 ? -x : x;
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    if (x < 2.0) {
        return (((x - 5) * x + 8) * x - 4) * a;
    }
    return 0.0;
}

constexpr double bicubic_support = 2.0;

static_assert(kernel_slack <= Image::slack, "kernels write past the last row of a result");

/// One axis of a resize: for each output from `begin` on, where it is summed up from, and by
/// which coefficients.
class Axis {
  public:
    Axis(std::int64_t source, std::int64_t resized, std::int64_t begin, std::int64_t outputs);

    [[nodiscard]] Taps taps() const {
        return {firsts_.data(),
                counts_.data(),
                coefficients_.data(),
                halves_.data(),
                static_cast<int>(firsts_.size()),
                groups_};
    }
    /// The first neighbour of all outputs, and the end of them.
    [[nodiscard]] std::int32_t first() const { return firsts_.front(); }
    [[nodiscard]] std::int32_t end() const { return firsts_.back() + counts_.back(); }
    /// Bytes of a row of pixels that the horizontal kernel may read.
    [[nodiscard]] std::int64_t reach() const {
        return 3 * (std::int64_t{firsts_.back()} + group_size * groups_) + 4;
    }

  private:
    void set_coefficients(const std::vector<double>& centers, double scale);
    void split_coefficients();

    int groups_ = 0;
    std::vector<std::int32_t> firsts_;
    std::vector<std::int32_t> counts_;
    std::vector<std::int32_t> coefficients_;
    std::vector<std::int16_t> halves_;
};

/// Follows precompute_coeffs in Pillow's Resample.c.
Axis::Axis(std::int64_t source, std::int64_t resized, std::int64_t begin, std::int64_t outputs) {
    const double scale = static_cast<double>(source) / static_cast<double>(resized);
    const double filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = bicubic_support * filter_scale;
    std::vector<double> centers;
    for (std::int64_t output = begin; output < begin + outputs; ++output) {
        const double center = (static_cast<double>(output) + 0.5) * scale;
        const auto first = std::max(static_cast<std::int32_t>(center - support + 0.5), 0);
        const auto end = std::min(static_cast<std::int32_t>(center + support + 0.5),
                                  static_cast<std::int32_t>(source));
        centers.push_back(center);
        firsts_.push_back(first);
        counts_.push_back(end - first);
    }
    const std::int32_t most = *std::max_element(counts_.begin(), counts_.end());
    groups_ = (most + group_size - 1) / group_size;
    set_coefficients(centers, 1.0 / filter_scale);
    split_coefficients();
}

void Axis::set_coefficients(const std::vector<double>& centers, double scale) {
    const auto row = static_cast<std::size_t>(groups_ * group_size);
    coefficients_.resize(centers.size() * row, 0);
    std::vector<double> weights(row);
    for (std::size_t output = 0; output < centers.size(); ++output) {
        const auto count = static_cast<std::size_t>(counts_[output]);
        double sum = 0.0;
        for (std::size_t tap = 0; tap < count; ++tap) {
            const std::int32_t x = static_cast<std::int32_t>(tap) + firsts_[output];
            weights[tap] = bicubic((x - centers[output] + 0.5) * scale);
            sum += weights[tap];
        }
        for (std::size_t tap = 0; tap < count; ++tap) {
            const double weight = sum != 0.0 ? weights[tap] / sum : weights[tap];
            const double scaled = weight * (1 << precision_bits);
            coefficients_[output * row + tap] =
                static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
        }
    }
}

void Axis::split_coefficients() {
    halves_.reserve(2 * coefficients_.size());
    for (auto group = coefficients_.begin(); group != coefficients_.end(); group += group_size) {
        std::transform(group, group + group_size, std::back_inserter(halves_),
                       [](std::int32_t k) { return static_cast<std::int16_t>(k & 0x7FFF); });
        std::transform(group, group + group_size, std::back_inserter(halves_),
                       [](std::int32_t k) { return static_cast<std::int16_t>(k >> 15); });
    }
}

/// Rows of bytes with room past each for a kernel.
struct Rows {
    Rows(std::int64_t count, std::int64_t row_size)
        : stride((static_cast<std::size_t>(row_size) + 2 * kernel_slack - 1) / kernel_slack *
                 kernel_slack),
          bytes(stride * static_cast<std::size_t>(count)) {}

    [[nodiscard]] std::uint8_t* row(std::int64_t y) const {
        return bytes.data() + stride * static_cast<std::size_t>(y);
    }

    std::size_t stride;
    Buffer bytes;
};

std::int64_t round_up_to_rows_at_once(std::int64_t count) {
    return (count + rows_at_once - 1) / rows_at_once * rows_at_once;
}

/// Returns rows `first` to `end` of the source as wide as the result.
Rows horizontal_pass(const ImageView& source, const Resampling& wanted, std::int64_t first,
                     std::int64_t end, const Kernels& kernels) {
    Rows rows(round_up_to_rows_at_once(end - first), 3 * wanted.size);
    if (source.width == wanted.width) {
        for (std::int64_t y = first; y < end; ++y) {
            std::memcpy(rows.row(y - first), source.data + y * source.stride + 3 * wanted.left,
                        static_cast<std::size_t>(3 * wanted.size));
        }
        return rows;
    }
    const Axis axis(source.width, wanted.width, wanted.left, wanted.size);
    const Taps taps = axis.taps();
    const std::int64_t source_size = (source.height - 1) * source.stride + 3 * source.width;
    std::vector<std::uint8_t> safe;  // copies of rows near the source's end
    safe.resize(static_cast<std::size_t>(rows_at_once * axis.reach()));
    for (std::int64_t y = first; y < end; y += rows_at_once) {
        std::array<const std::uint8_t*, rows_at_once> pointers = {};
        for (int index = 0; index < rows_at_once; ++index) {
            // Past the end the last row is taken again.
            const std::int64_t offset = std::min(y + index, end - 1) * source.stride;
            const std::uint8_t* row = source.data + offset;
            if (offset + axis.reach() > source_size) {
                std::uint8_t* const copy = safe.data() + index * axis.reach();
                std::memcpy(copy, row,
                            static_cast<std::size_t>(std::min(3 * source.width, axis.reach())));
                row = copy;
            }
            pointers[static_cast<std::size_t>(index)] = row;
        }
        kernels.horizontal(pointers.data(), taps, rows.row(y - first), rows.stride);
    }
    return rows;
}

std::uint8_t clip(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> precision_bits, 0, 255));
}

void scalar_horizontal(const std::uint8_t* const* rows, const Taps& taps, std::uint8_t* out,
                       std::size_t stride) {
    for (int row = 0; row < rows_at_once; ++row) {
        std::uint8_t* pixel = out + static_cast<std::size_t>(row) * stride;
        const std::int32_t* coefficients = taps.coefficients;
        for (int output = 0; output < taps.outputs; ++output, pixel += 3) {
            const std::uint8_t* source = rows[row] + 3 * std::ptrdiff_t{taps.firsts[output]};
            std::int32_t red = rounding;
            std::int32_t green = rounding;
            std::int32_t blue = rounding;
            for (std::int32_t tap = 0; tap < taps.counts[output]; ++tap, source += 3) {
                red += source[0] * coefficients[tap];
                green += source[1] * coefficients[tap];
                blue += source[2] * coefficients[tap];
            }
            pixel[0] = clip(red);
            pixel[1] = clip(green);
            pixel[2] = clip(blue);
            coefficients += taps.groups * group_size;
        }
    }
}

void scalar_vertical(const std::uint8_t* rows, std::size_t stride, const Taps& taps, int output,
                     std::size_t size, std::uint8_t* out) {
    constexpr std::size_t block = 64;  // sums that stay in registers or the nearest cache
    const std::int32_t* coefficients =
        taps.coefficients + std::ptrdiff_t{output} * taps.groups * group_size;
    for (std::size_t begin = 0; begin < size; begin += block) {
        std::array<std::int32_t, block> sums;
        sums.fill(rounding);
        const std::size_t count = std::min(block, size - begin);
        const std::uint8_t* source = rows + begin;
        for (std::int32_t tap = 0; tap < taps.counts[output]; ++tap, source += stride) {
            for (std::size_t x = 0; x < count; ++x) {
                sums[x] += source[x] * coefficients[tap];
            }
        }
        for (std::size_t x = 0; x < count; ++x) {
            out[begin + x] = clip(sums[x]);
        }
    }
}

}  // namespace

const Kernels scalar_kernels = {"scalar", scalar_horizontal, scalar_vertical};

const Kernels& best_kernels() {
#if defined(VITAIE_AVX2)
    if (__builtin_cpu_supports("avx2") != 0) {
        return avx2_kernels;
    }
#endif
    return scalar_kernels;
}

Image resample(const ImageView& source, const Resampling& wanted, const Kernels& kernels) {
    Image result(wanted.size, wanted.size);
    const auto row_size = static_cast<std::size_t>(3 * wanted.size);
    if (source.height == wanted.height) {
        const Rows rows =
            horizontal_pass(source, wanted, wanted.top, wanted.top + wanted.size, kernels);
        for (std::int64_t y = 0; y < wanted.size; ++y) {
            std::memcpy(result.row(y), rows.row(y), row_size);
        }
        return result;
    }
    const Axis axis(source.height, wanted.height, wanted.top, wanted.size);
    const Rows rows = horizontal_pass(source, wanted, axis.first(), axis.end(), kernels);
    const Taps taps = axis.taps();
    for (int y = 0; y < taps.outputs; ++y) {  // in order: a row may be written past its end
        kernels.vertical(rows.row(taps.firsts[y] - axis.first()), rows.stride, taps, y, row_size,
                         result.row(y));
    }
    return result;
}

}  // namespace vitaie::detail

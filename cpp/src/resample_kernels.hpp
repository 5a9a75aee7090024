/// The two inner loops of a resize, in plain C++ and with SIMD.
///
/// This header is all that files compiled for one instruction set include: no inline function
/// of the standard library may be compiled there, for the linker might keep that copy for all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vitaie::detail {

/// Bits of a coefficient's fraction.
constexpr int precision_bits = 32 - 8 - 2;
/// Half of the last place, which every sum begins with.
constexpr std::int32_t rounding = 1 << (precision_bits - 1);

/// Taps are handled in groups; those past an output's own have the coefficient 0.
constexpr int group_size = 4;
/// Rows that the horizontal kernel takes at once.
constexpr int rows_at_once = 4;
/// A kernel may read and write this many bytes past the end of a row.
constexpr int kernel_slack = 32;

/// The taps of the outputs of one axis. Output `i` is the sum of `counts[i]` neighbours from
/// `firsts[i]` on, each by its coefficient: `groups * group_size` of them for each output.
///
/// `halves` are the same coefficients for 16-bit multiplications: of each group its low 15 bits,
/// then the rest; coefficient = low + (rest << 15).
struct Taps {
    const std::int32_t* firsts;
    const std::int32_t* counts;
    const std::int32_t* coefficients;
    const std::int16_t* halves;
    int outputs;
    int groups;
};

struct Kernels {
    const char* name;

    /// Resizes `rows_at_once` rows of pixels; `out` are as many, `stride` bytes apart.
    /// Reads whole groups of taps, and 4 bytes more.
    void (*horizontal)(const std::uint8_t* const* rows, const Taps& taps, std::uint8_t* out,
                       std::size_t stride);

    /// Sums up rows of `size` bytes into the row `output`; `rows` is the row `taps.firsts[output]`,
    /// and `stride` the distance of rows.
    void (*vertical)(const std::uint8_t* rows, std::size_t stride, const Taps& taps, int output,
                     std::size_t size, std::uint8_t* out);
};

extern const Kernels scalar_kernels;

#if defined(VITAIE_AVX2)
/// 256-bit SIMD, for x86-64 processors that have it.
extern const Kernels avx2_kernels;
#endif

}  // namespace vitaie::detail

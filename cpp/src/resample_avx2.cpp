/// The resize's inner loops with AVX2: compiled for it, and run only where the processor has it.
///
/// A coefficient takes 23 bits and the fast multiplication, which adds up two products, takes
/// 16: so each is split in two, and the halves are summed up apart. The sums may wrap around; the
/// whole, which Pillow's own sum of 32 bits holds, comes out right all the same.
#include <immintrin.h>

#include "resample_kernels.hpp"

namespace vitaie::detail {

namespace {

static_assert(group_size == 4 && rows_at_once == 4, "what the shuffles below are made for");

constexpr int half_bits = 15;

/// low + (high << 15), for sums of the two halves.
inline __m256i whole(__m256i low, __m256i high) {
    return _mm256_add_epi32(low, _mm256_slli_epi32(high, half_bits));
}

inline __m128i load_pixels(const std::uint8_t* bytes) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

/// Four coefficients: the first two in all of the lower lane, the last two in the upper one.
inline __m256i load_halves(const std::int16_t* halves) {
    const __m256i spread = _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3,  //
                                            4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    long long four;
    __builtin_memcpy(&four, halves, sizeof four);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(four), spread);
}

/// Red, green, blue and nothing of one pixel as 32-bit sums, from sums of the two lanes.
inline __m128i pixel_sum(__m256i low, __m256i high) {
    const __m256i sums = whole(low, high);
    const __m128i sum =
        _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(rounding)), precision_bits);
}

void horizontal(const std::uint8_t* const* rows, const Taps& taps, std::uint8_t* out,
                std::size_t stride) {
    // Of four pixels of 3 bytes: pairs of red, green, blue as 16 bits, the first two pixels in
    // the lower lane, the others in the upper one. 255 gives zero.
    const __m256i pairs =
        _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7,
                         -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const std::int16_t* halves = taps.halves;
    for (int output = 0; output < taps.outputs; ++output) {
        __m256i low[rows_at_once] = {};
        __m256i high[rows_at_once] = {};
        std::ptrdiff_t offset = 3 * std::ptrdiff_t{taps.firsts[output]};
        for (int group = 0; group < taps.groups; ++group) {
            const __m256i low_half = load_halves(halves);
            const __m256i high_half = load_halves(halves + group_size);
            for (int row = 0; row < rows_at_once; ++row) {
                const __m256i pixels = _mm256_shuffle_epi8(
                    _mm256_broadcastsi128_si256(load_pixels(rows[row] + offset)), pairs);
                low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(pixels, low_half));
                high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(pixels, high_half));
            }
            halves += 2 * group_size;
            offset += 3 * group_size;
        }
        const __m128i first_two =
            _mm_packs_epi32(pixel_sum(low[0], high[0]), pixel_sum(low[1], high[1]));
        const __m128i last_two =
            _mm_packs_epi32(pixel_sum(low[2], high[2]), pixel_sum(low[3], high[3]));
        const __m128i bytes = _mm_packus_epi16(first_two, last_two);
        // Each writes a byte too many, which the next pixel or the row's slack takes.
        std::uint8_t* const pixel = out + 3 * output;
        const int values[rows_at_once] = {_mm_cvtsi128_si32(bytes), _mm_extract_epi32(bytes, 1),
                                          _mm_extract_epi32(bytes, 2), _mm_extract_epi32(bytes, 3)};
        for (int row = 0; row < rows_at_once; ++row) {
            __builtin_memcpy(pixel + static_cast<std::size_t>(row) * stride, &values[row], 4);
        }
    }
}

inline __m256i load_row(const std::uint8_t* bytes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

inline __m256i set_pair(const std::int16_t* halves) {
    int pair;
    __builtin_memcpy(&pair, halves, sizeof pair);
    return _mm256_set1_epi32(pair);
}

void vertical(const std::uint8_t* rows, std::size_t stride, const Taps& taps, int output,
              std::size_t size, std::uint8_t* out) {
    const __m256i zero = _mm256_setzero_si256();
    const std::int16_t* const halves =
        taps.halves + std::ptrdiff_t{output} * taps.groups * 2 * group_size;
    const int count = taps.counts[output];
    for (std::size_t begin = 0; begin < size; begin += 32) {
        __m256i low[4];
        __m256i high[4];
        for (int part = 0; part < 4; ++part) {
            low[part] = _mm256_set1_epi32(rounding);
            high[part] = zero;
        }
        const std::uint8_t* row = rows + begin;
        for (int tap = 0; tap < count; tap += 2) {
            const std::int16_t* const group =
                halves + tap / group_size * 2 * group_size + tap % group_size;
            const __m256i low_half = set_pair(group);
            const __m256i high_half = set_pair(group + group_size);
            const __m256i upper = load_row(row);
            // The coefficient past the last is 0, and there may be no row.
            const __m256i lower = tap + 1 < count ? load_row(row + stride) : zero;
            row += 2 * stride;
            const __m256i left = _mm256_unpacklo_epi8(upper, lower);
            const __m256i right = _mm256_unpackhi_epi8(upper, lower);
            const __m256i pairs[4] = {
                _mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
            for (int part = 0; part < 4; ++part) {
                low[part] = _mm256_add_epi32(low[part], _mm256_madd_epi16(pairs[part], low_half));
                high[part] =
                    _mm256_add_epi32(high[part], _mm256_madd_epi16(pairs[part], high_half));
            }
        }
        __m256i sums[4];
        for (int part = 0; part < 4; ++part) {
            sums[part] = _mm256_srai_epi32(whole(low[part], high[part]), precision_bits);
        }
        const __m256i left = _mm256_packs_epi32(sums[0], sums[1]);
        const __m256i right = _mm256_packs_epi32(sums[2], sums[3]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + begin),
                            _mm256_packus_epi16(left, right));
    }
}

}  // namespace

const Kernels avx2_kernels = {"avx2", horizontal, vertical};

}  // namespace vitaie::detail

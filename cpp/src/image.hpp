/// JPEG or PNG to RGB pixels, the same bytes as Python's `vitaie.runtime` decodes.
///
///     const Image image = decode_file("cat.jpg");
///
/// As there, the decoders see only the parts of a file that pixels depend on, EXIF rotation,
/// alpha and transparency are ignored, and every fault is an `Error` with Python's code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "buffer.hpp"
#include "error.hpp"

namespace vitaie::detail {

/// The most bytes an image's file may have.
inline constexpr std::size_t max_image_bytes = std::size_t{1} << 29;

/// Bytes that someone else owns.
struct Bytes {
    const std::uint8_t* data = nullptr;
    std::size_t size = 0;
};

enum class PixelOrder { rgb, bgr };

/// Pixels that someone else owns, 3 bytes each: a camera's frame, or an `Image`.
struct ImageView {
    const std::uint8_t* data = nullptr;
    std::int64_t width = 0;   ///< pixels
    std::int64_t height = 0;  ///< pixels
    std::int64_t stride = 0;  ///< bytes from one row to the next, at least 3 * width
    PixelOrder order = PixelOrder::rgb;
};

/// An image of our own: 3 bytes a pixel, rows without gaps.
class Image {
  public:
    /// Bytes past the last pixel that may be written and read, and mean nothing.
    static constexpr std::int64_t slack = 32;

    /// The pixels are not initialised.
    Image(std::int64_t width, std::int64_t height);

    [[nodiscard]] std::int64_t width() const { return width_; }
    [[nodiscard]] std::int64_t height() const { return height_; }
    [[nodiscard]] std::uint8_t* row(std::int64_t y) { return pixels_.data() + 3 * width_ * y; }
    [[nodiscard]] const std::uint8_t* row(std::int64_t y) const {
        return pixels_.data() + 3 * width_ * y;
    }
    /// All pixels, row-major, 3 * width * height bytes.
    [[nodiscard]] Bytes bytes() const;
    [[nodiscard]] ImageView view() const;

  private:
    std::int64_t width_;
    std::int64_t height_;
    Buffer pixels_;
};

/// Decodes the bytes of a JPEG or PNG file, told apart by content.
///
/// \param where What errors call the image: its path, or its kind.
/// \throws Error E_IMAGE_FORMAT, E_IMAGE_BROKEN, E_IMAGE_TOO_LARGE, E_IMAGE_UNREADABLE.
Image decode(Bytes file, std::string_view where = "image bytes");

/// The bytes of a file that may hold an image.
struct ImageFile {
    Buffer data;
    std::size_t size = 0;

    [[nodiscard]] Bytes bytes() const { return {data.data(), size}; }
};

/// Reads a file. A FIFO or a device is refused without waiting for it.
///
/// \throws Error E_IMAGE_UNREADABLE.
ImageFile read_image_file(const std::string& path);

/// Decodes a file. A FIFO or a device is refused without waiting for it.
///
/// \throws Error As `decode`.
Image decode_file(const std::string& path);

/// Throws unless a view has pixels, rows that do not overlap, and at most 2^26 pixels.
///
/// \throws Error E_IMAGE_ARRAY, E_IMAGE_TOO_LARGE.
void check_view(const ImageView& image, std::string_view where = "image array");

/// Throws unless an image of this size has pixels, and at most 2^26.
///
/// \throws Error E_IMAGE_BROKEN, E_IMAGE_TOO_LARGE.
void check_pixels(std::int64_t width, std::int64_t height, std::string_view where);

/// Returns E_IMAGE_BROKEN, to be thrown.
Error broken_image(std::string_view where, std::string_view got);

/// The two decoders behind `decode`, given files that begin as theirs do.
Image decode_jpeg(Bytes file, std::string_view where);
Image decode_png(Bytes file, std::string_view where);

/// An unsigned big-endian number, as JPEG and PNG write them; the bytes must be there.
inline std::uint32_t big_endian(const std::uint8_t* bytes, int count) {
    std::uint32_t number = 0;
    for (int index = 0; index < count; ++index) {
        number = number << 8 | bytes[index];
    }
    return number;
}

}  // namespace vitaie::detail

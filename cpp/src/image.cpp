#include "image.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>

#include "descriptor.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

namespace {

constexpr std::array<std::uint8_t, 3> jpeg_start = {0xFF, 0xD8, 0xFF};
constexpr std::array<std::uint8_t, 8> png_signature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

constexpr std::string_view readable = "Give the path of a JPEG or PNG file that may be read.";

template <std::size_t Size>
bool starts_with(Bytes file, const std::array<std::uint8_t, Size>& start) {
    return file.size >= Size && std::equal(start.begin(), start.end(), file.data);
}

/// "bytes 47 49 46 38", the first eight.
std::string first_bytes(Bytes file) {
    if (file.size == 0) {
        return "no bytes";
    }
    std::string text = "bytes";
    for (std::size_t index = 0; index < std::min<std::size_t>(file.size, 8); ++index) {
        constexpr const char* digits = "0123456789abcdef";
        text += {' ', digits[file.data[index] >> 4], digits[file.data[index] & 15]};
    }
    return text;
}

void check_file_size(std::uint64_t size, std::string_view where) {
    if (size > max_image_bytes) {
        throw Error(Code::E_IMAGE_UNREADABLE, where)
            .expected("at most " + std::to_string(max_image_bytes) + " bytes")
            .got(std::to_string(size))
            .hint("Save it again, smaller.");
    }
}

[[noreturn]] void throw_unreadable(const std::string& path, int reason) {
    throw Error(Code::E_IMAGE_UNREADABLE, path)
        .got(std::generic_category().message(reason))
        .hint(readable);
}

std::string size_text(std::int64_t width, std::int64_t height) {
    return std::to_string(width) + "x" + std::to_string(height) + " pixels";
}

/// Whether the product is over the limit; sides may be anything from 1.
bool too_many(std::int64_t width, std::int64_t height) {
    return width > max_pixels / height;
}

}  // namespace

Image::Image(std::int64_t width, std::int64_t height)
    : width_(width),
      height_(height),
      pixels_(static_cast<std::size_t>(3 * width * height + slack)) {}

Bytes Image::bytes() const {
    return {pixels_.data(), static_cast<std::size_t>(3 * width_ * height_)};
}

ImageView Image::view() const {
    return {pixels_.data(), width_, height_, 3 * width_};
}

Image decode(Bytes file, std::string_view where) {
    check_file_size(file.size, where);
    if (starts_with(file, jpeg_start)) {
        return decode_jpeg(file, where);
    }
    if (starts_with(file, png_signature)) {
        return decode_png(file, where);
    }
    throw Error(Code::E_IMAGE_FORMAT, where)
        .got(first_bytes(file))
        .hint("Save it as JPEG or PNG; what counts is its bytes, not its name.");
}

ImageFile read_image_file(const std::string& path) {
    if (path.find('\0') != std::string::npos) {
        throw Error(Code::E_IMAGE_UNREADABLE, path).got("embedded null byte").hint(readable);
    }
    const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    struct stat status = {};
    if (!descriptor || ::fstat(descriptor.get(), &status) != 0) {
        throw_unreadable(path, errno);
    }
    if (!S_ISREG(status.st_mode)) {
        Error error(Code::E_IMAGE_UNREADABLE, path);
        error.expected("a regular file").hint(readable);
        if (S_ISDIR(status.st_mode)) {
            error.got("a folder");
        }
        throw error;
    }
    check_file_size(static_cast<std::uint64_t>(status.st_size), path);
    const auto size = static_cast<std::size_t>(status.st_size);
    ImageFile file{Buffer(size), 0};
    while (file.size < size) {  // a file that became shorter is decoded as far as it goes
        const ssize_t count =
            ::read(descriptor.get(), file.data.data() + file.size, size - file.size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            throw_unreadable(path, errno);
        }
        if (count == 0) {
            break;
        }
        file.size += static_cast<std::size_t>(count);
    }
    return file;
}

Image decode_file(const std::string& path) {
    return decode(read_image_file(path).bytes(), path);
}

void check_view(const ImageView& image, std::string_view where) {
    if (image.data == nullptr || image.width < 1 || image.height < 1) {
        throw Error(Code::E_IMAGE_ARRAY, where).got(size_text(image.width, image.height));
    }
    if (too_many(image.width, image.height)) {
        throw Error(Code::E_IMAGE_TOO_LARGE, where).got(size_text(image.width, image.height));
    }
    if (image.stride < 3 * image.width) {
        throw Error(Code::E_IMAGE_ARRAY, where)
            .expected("a stride of at least " + std::to_string(3 * image.width) + " bytes")
            .got(image.stride);
    }
}

void check_pixels(std::int64_t width, std::int64_t height, std::string_view where) {
    if (width < 1 || height < 1) {
        throw broken_image(where, size_text(width, height));
    }
    if (too_many(width, height)) {
        throw Error(Code::E_IMAGE_TOO_LARGE, where).got(size_text(width, height));
    }
}

Error broken_image(std::string_view where, std::string_view got) {
    return Error(Code::E_IMAGE_BROKEN, where).got(got);
}

}  // namespace vitaie::detail

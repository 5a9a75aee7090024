/// PNG through libpng, with the verdicts that Pillow gives.
///
/// The chunks are read here, each critical one with its CRC; libpng is given a header and the
/// compressed rows, by blocks as Pillow takes them, and hands back the samples as they are.
/// What a sample means is decided here again, so that no setting of libpng can change it.
#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include <png.h>
#include <zlib.h>

#include "image.hpp"

namespace vitaie::detail {

namespace {

/// Compressed bytes that Pillow hands to its decoder at once.
constexpr std::size_t block_size = 65536;
/// A text chunk may be this long; it is skipped, never unpacked.
constexpr std::size_t max_text_bytes = std::size_t{1} << 24;
constexpr std::size_t max_palette_size = 256;

// Colour types: bit 0 is a palette, bit 1 colour, bit 2 alpha.
constexpr int color_grey = 0;
constexpr int color_rgb = 2;
constexpr int color_palette = 3;
constexpr int color_grey_alpha = 4;
constexpr int color_rgb_alpha = 6;

struct Header {
    std::uint32_t width = 0;
    std::uint32_t height = 0;
    int bits = 0;   ///< of a sample
    int color = 0;  ///< the colour type
    bool interlaced = false;
};

/// The critical chunks of a file.
struct Chunks {
    Bytes header;
    Bytes palette;
    std::vector<Bytes> data;
};

enum class Kind { header, palette, data, end, other };

Kind kind_of(const std::uint8_t* name) {
    constexpr std::array<const char*, 4> names = {"IHDR", "PLTE", "IDAT", "IEND"};
    for (std::size_t index = 0; index < names.size(); ++index) {
        if (std::memcmp(name, names[index], 4) == 0) {
            return static_cast<Kind>(index);
        }
    }
    return Kind::other;
}

bool is_text(const std::uint8_t* name) {
    return std::memcmp(name, "tEXt", 4) == 0 || std::memcmp(name, "zTXt", 4) == 0 ||
           std::memcmp(name, "iTXt", 4) == 0;
}

bool is_ancillary(const std::uint8_t* name) {
    return 'a' <= name[0] && name[0] <= 'z';
}

bool has_right_crc(const std::uint8_t* name, std::size_t length) {
    // Chunks are shorter than 2^29 bytes, as the file is.
    return crc32(0, name, static_cast<uInt>(length + 4)) == big_endian(name + 4 + length, 4);
}

Error broken_chunk(std::string_view where, Bytes file, std::size_t start, const char* reason) {
    const std::size_t end = std::min(file.size, start + 8);
    const std::size_t name = std::min(file.size, start + 4);
    const std::string text(reinterpret_cast<const char*>(file.data) + name, end - name);
    return broken_image(where,
                        "chunk " + text + " at byte " + std::to_string(start) + " " + reason);
}

/// Returns the critical chunks, each with the right CRC, from IHDR to IEND.
Chunks read_chunks(Bytes file, std::string_view where) {
    Chunks chunks;
    std::array<bool, 5> seen = {};
    Kind previous = Kind::other;
    std::size_t position = 8;
    while (previous != Kind::end) {
        const std::size_t start = position;
        const std::size_t left = file.size - start;
        if (left < 12 || left - 12 < big_endian(file.data + start, 4)) {
            throw broken_chunk(where, file, start, "is cut off");
        }
        const std::size_t length = big_endian(file.data + start, 4);
        const std::uint8_t* const name = file.data + start + 4;
        const Kind kind = kind_of(name);
        position = start + 12 + length;
        if (kind == Kind::other) {
            if (!is_ancillary(name) || (is_text(name) && length > max_text_bytes)) {
                throw broken_chunk(where, file, start, "is unknown or too long");
            }
            previous = kind;
            continue;
        }
        if (!has_right_crc(name, length)) {
            throw broken_chunk(where, file, start, "has a wrong CRC");
        }
        bool& was_seen = seen[static_cast<std::size_t>(kind)];
        if (was_seen && !(kind == Kind::data && previous == Kind::data)) {
            throw broken_chunk(where, file, start, "stands twice");
        }
        const bool late = kind == Kind::palette && seen[static_cast<std::size_t>(Kind::data)];
        if ((kind == Kind::header) != (start == 8) || late) {
            throw broken_chunk(where, file, start, "is out of order");
        }
        was_seen = true;
        previous = kind;
        const Bytes content = {name + 4, length};
        if (kind == Kind::header) {
            chunks.header = content;
        } else if (kind == Kind::palette) {
            chunks.palette = content;
        } else if (kind == Kind::data) {
            chunks.data.push_back(content);
        }
    }
    if (file.data[25] == color_palette && !seen[static_cast<std::size_t>(Kind::palette)]) {
        throw broken_image(where, "a palette image without its palette");
    }
    return chunks;
}

bool is_known(int bits, int color) {
    switch (color) {
        case color_grey:
            return bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16;
        case color_palette:
            return bits == 1 || bits == 2 || bits == 4 || bits == 8;
        case color_rgb:
        case color_grey_alpha:
        case color_rgb_alpha:
            return bits == 8 || bits == 16;
        default:
            return false;
    }
}

int samples_per_pixel(int color) {
    switch (color) {
        case color_rgb:
            return 3;
        case color_grey_alpha:
            return 2;
        case color_rgb_alpha:
            return 4;
        default:
            return 1;
    }
}

/// Reads IHDR as Pillow does, which takes any compression method, and any interlace method but
/// 0 as Adam7.
Header read_header(Bytes chunk, std::string_view where) {
    if (chunk.size < 13) {
        throw broken_image(where, "a header cut short");
    }
    const std::uint8_t* const data = chunk.data;
    const Header header = {big_endian(data, 4), big_endian(data + 4, 4), data[8], data[9],
                           data[12] != 0};
    if (!is_known(header.bits, header.color)) {
        throw broken_image(where, std::to_string(header.bits) + " bits of colour type " +
                                      std::to_string(header.color));
    }
    if (data[11] != 0) {
        throw broken_image(where, "filter method " + std::to_string(data[11]));
    }
    return header;
}

/// Rows of samples, one or two bytes each, to RGB.
class Converter {
  public:
    Converter(const Header& header, Bytes colors);

    /// Converts `count` pixels, written `step` pixels apart.
    void convert(const std::uint8_t* samples, std::int64_t count, std::uint8_t* out,
                 std::int64_t step) const;

  private:
    enum class Way { copy, look_up, clamp, pick };

    Way way_;
    int pixel_size_ = 0;  ///< bytes of a pixel of samples
    int to_next_ = 0;     ///< bytes from red to green and to blue: 0 in grey
    std::array<std::array<std::uint8_t, 3>, max_palette_size> colors_ = {};
};

Converter::Converter(const Header& header, Bytes colors) : way_(Way::pick) {
    const int sample_size = header.bits == 16 ? 2 : 1;
    switch (header.color) {
        case color_grey:
            way_ = header.bits == 16 ? Way::clamp : Way::look_up;
            for (std::size_t value = 0; value < std::size_t{1} << std::min(header.bits, 8);
                 ++value) {
                colors_[value].fill(static_cast<std::uint8_t>(
                    value * 255 / ((1U << std::min(header.bits, 8)) - 1)));
            }
            pixel_size_ = sample_size;
            break;
        case color_palette:
            way_ = Way::look_up;  // an index past the palette's end is black
            for (std::size_t index = 0; index < colors.size / 3; ++index) {
                std::copy_n(colors.data + 3 * index, 3, colors_[index].begin());
            }
            pixel_size_ = 1;
            break;
        case color_grey_alpha:
            pixel_size_ = 2 * sample_size;
            break;
        default:
            way_ = header.color == color_rgb && sample_size == 1 ? Way::copy : Way::pick;
            pixel_size_ = (header.color == color_rgb ? 3 : 4) * sample_size;
            to_next_ = sample_size;
    }
}

void Converter::convert(const std::uint8_t* samples, std::int64_t count, std::uint8_t* out,
                        std::int64_t step) const {
    if (way_ == Way::copy && step == 1) {
        std::memcpy(out, samples, static_cast<std::size_t>(3 * count));
        return;
    }
    for (std::int64_t x = 0; x < count; ++x, samples += pixel_size_, out += 3 * step) {
        if (way_ == Way::look_up) {
            std::copy_n(colors_[*samples].begin(), 3, out);
        } else if (way_ == Way::clamp) {
            std::fill_n(out, 3, samples[0] != 0 ? std::uint8_t{255} : samples[1]);
        } else {  // the high byte of each
            out[0] = samples[0];
            out[1] = samples[to_next_];
            out[2] = samples[2 * to_next_];
        }
    }
}

/// Whether all of a row's samples are zero, as Pillow keeps them: of 16 bits the high byte, but in
/// grey both.
bool is_nothing(const Header& header, const std::uint8_t* samples) {
    const std::int64_t count = std::int64_t{header.width} * samples_per_pixel(header.color);
    const int size = header.bits == 16 ? 2 : 1;
    for (std::int64_t index = 0; index < count; ++index, samples += size) {
        const bool low_counts = size == 2 && header.color == color_grey;
        if (samples[0] != 0 || (low_counts && samples[1] != 0)) {
            return false;
        }
    }
    return true;
}

/// One run of libpng. Every call into it that may fail is inside `give`, whose frame holds
/// nothing that a longjmp would leave behind.
class Decoder {
  public:
    Decoder(const Header& header, Bytes colors, Image& image);
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

    void run(const std::vector<Bytes>& data, std::string_view where);

    /// Whether the last row is black and transparent, as a row that was never there would be.
    [[nodiscard]] bool ends_in_nothing() const { return ends_in_nothing_; }

  private:
    static void leave(png_structp png, png_const_charp message);
    static void ignore_warning(png_structp /*png*/, png_const_charp /*message*/) {}
    static void start_rows(png_structp png, png_infop info);
    static void take_row(png_structp png, png_bytep samples, png_uint_32 number, int pass);
    static png_voidp allocate(png_structp png, png_alloc_size_t size);
    static void release(png_structp /*png*/, png_voidp memory) { std::free(memory); }

    bool give(const std::uint8_t* data, std::size_t size);
    bool configure();
    bool is_done() const { return rows_ == 0; }
    [[noreturn]] void fail(std::string_view where) const;

    Header header_;
    Converter converter_;
    Image& image_;
    std::int64_t rows_ = 0;  ///< still to come
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
    std::jmp_buf jump_;
    std::array<char, 100> message_ = {};
    bool out_of_memory_ = false;
    bool ends_in_nothing_ = false;
};

Decoder::Decoder(const Header& header, Bytes colors, Image& image)
    : header_(header), converter_(header, colors), image_(image) {
    for (int pass = 0; pass < (header.interlaced ? PNG_INTERLACE_ADAM7_PASSES : 1); ++pass) {
        if (!header.interlaced) {
            rows_ = header.height;
        } else if (PNG_PASS_COLS(header.width, pass) > 0) {
            rows_ += PNG_PASS_ROWS(header.height, pass);
        }
    }
    png_ = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, this, leave, ignore_warning, this,
                                    allocate, release);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
        png_destroy_read_struct(&png_, &info_, nullptr);
        throw std::bad_alloc();
    }
}

void Decoder::leave(png_structp png, png_const_charp message) {
    auto* self = static_cast<Decoder*>(png_get_error_ptr(png));
    std::strncpy(self->message_.data(), message, self->message_.size() - 1);
    std::longjmp(self->jump_, 1);
}

png_voidp Decoder::allocate(png_structp png, png_alloc_size_t size) {
    void* memory = std::malloc(size);
    if (memory == nullptr) {
        static_cast<Decoder*>(png_get_mem_ptr(png))->out_of_memory_ = true;
    }
    return memory;
}

void Decoder::start_rows(png_structp png, png_infop /*info*/) {
    png_set_packing(png);  // a byte for each sample of less than 8 bits
    png_start_read_image(png);
}

void Decoder::take_row(png_structp png, png_bytep samples, png_uint_32 number, int pass) {
    auto& self = *static_cast<Decoder*>(png_get_progressive_ptr(png));
    if (samples == nullptr || self.rows_ == 0) {
        return;
    }
    --self.rows_;
    if (!self.header_.interlaced) {
        self.converter_.convert(samples, self.header_.width, self.image_.row(number), 1);
        self.ends_in_nothing_ = self.rows_ == 0 && is_nothing(self.header_, samples);
        return;
    }
    const auto y = static_cast<std::int64_t>(PNG_ROW_FROM_PASS_ROW(number, pass));
    const std::int64_t x = PNG_PASS_START_COL(pass);
    const auto count = static_cast<std::int64_t>(PNG_PASS_COLS(self.header_.width, pass));
    self.converter_.convert(samples, count, self.image_.row(y) + 3 * x,
                            std::int64_t{1} << PNG_PASS_COL_SHIFT(pass));
}

bool Decoder::configure() {
    if (setjmp(jump_) != 0) {
        return false;
    }
    png_set_progressive_read_fn(png_, this, start_rows, take_row, nullptr);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);      // ours was checked
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);   // so were these
    png_set_benign_errors(png_, 0);                                   // a broken stream is an error
    png_set_option(png_, PNG_MAXIMUM_INFLATE_WINDOW, PNG_OPTION_ON);  // whatever the stream says
    return true;
}

bool Decoder::give(const std::uint8_t* data, std::size_t size) {
    if (setjmp(jump_) != 0) {
        return false;
    }
    png_process_data(png_, info_, const_cast<png_bytep>(data), size);
    return true;
}

void Decoder::fail(std::string_view where) const {
    if (out_of_memory_) {
        throw std::bad_alloc();
    }
    throw broken_image(where, message_.data());
}

void append_number(std::vector<std::uint8_t>& bytes, std::uint32_t number) {
    for (int shift = 24; shift >= 0; shift -= 8) {
        bytes.push_back(static_cast<std::uint8_t>(number >> shift));
    }
}

void append_chunk(std::vector<std::uint8_t>& bytes, const char* name,
                  const std::vector<std::uint8_t>& content) {
    append_number(bytes, static_cast<std::uint32_t>(content.size()));
    bytes.insert(bytes.end(), name, name + 4);
    bytes.insert(bytes.end(), content.begin(), content.end());
    append_number(bytes, 0);  // the CRC, which libpng was told to ignore
}

/// Returns the start of a file for libpng: signature, header, a palette's stand-in where one
/// has to be, and the begin of one IDAT with all compressed bytes.
std::vector<std::uint8_t> prologue(const Header& header, std::size_t compressed) {
    std::vector<std::uint8_t> bytes = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    std::vector<std::uint8_t> content;
    append_number(content, header.width);
    append_number(content, header.height);
    content.push_back(static_cast<std::uint8_t>(header.bits));
    content.push_back(static_cast<std::uint8_t>(header.color));
    content.insert(content.end(), {0, 0, header.interlaced ? std::uint8_t{1} : std::uint8_t{0}});
    append_chunk(bytes, "IHDR", content);
    if (header.color == color_palette) {
        append_chunk(bytes, "PLTE", {0, 0, 0});
    }
    append_number(bytes, static_cast<std::uint32_t>(compressed));
    bytes.insert(bytes.end(), {'I', 'D', 'A', 'T'});
    return bytes;
}

void Decoder::run(const std::vector<Bytes>& data, std::string_view where) {
    std::size_t compressed = 0;
    for (const Bytes chunk : data) {
        compressed += chunk.size;
    }
    const std::vector<std::uint8_t> start = prologue(header_, compressed);
    if (!configure() || !give(start.data(), start.size())) {
        fail(where);
    }
    for (const Bytes chunk : data) {
        for (std::size_t position = 0; position < chunk.size && !is_done();
             position += block_size) {
            const std::size_t size = std::min(block_size, chunk.size - position);
            if (!give(chunk.data + position, size)) {
                fail(where);
            }
        }
    }
    if (!is_done()) {
        throw broken_image(where, std::to_string(rows_) + " rows are missing");
    }
}

/// Returns how many bytes the rows are, each with its filter's.
std::int64_t size_of_rows(const Header& header) {
    const auto size = [&](std::int64_t columns, std::int64_t rows) {
        const std::int64_t bits = columns * header.bits * samples_per_pixel(header.color);
        return columns == 0 ? 0 : rows * (1 + (bits + 7) / 8);
    };
    if (!header.interlaced) {
        return size(header.width, header.height);
    }
    std::int64_t sum = 0;
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; ++pass) {
        sum += size(PNG_PASS_COLS(header.width, pass), PNG_PASS_ROWS(header.height, pass));
    }
    return sum;
}

/// Decompresses once more, as Python does where Pillow may have made up for missing rows.
///
/// None are missing here; but Python reads up to `most_at_once` bytes past the last row, and
/// refuses a stream that is broken there. So do we, to give the same verdict.
class Recount {
  public:
    Recount() {
        if (inflateInit(&stream_) != Z_OK) {
            throw std::bad_alloc();
        }
    }
    Recount(const Recount&) = delete;
    Recount& operator=(const Recount&) = delete;
    ~Recount() { inflateEnd(&stream_); }

    void run(const std::vector<Bytes>& data, std::int64_t missing, std::string_view where) {
        for (const Bytes chunk : data) {
            stream_.next_in = const_cast<Bytef*>(chunk.data);
            stream_.avail_in = static_cast<uInt>(chunk.size);
            while (stream_.avail_in > 0 && missing > 0 && !ended_) {
                missing -= static_cast<std::int64_t>(decompress(where));
            }
        }
    }

  private:
    static constexpr std::size_t most_at_once = std::size_t{1} << 20;

    std::size_t decompress(std::string_view where) {
        std::size_t count = 0;
        do {
            stream_.next_out = scratch_.data();
            stream_.avail_out = static_cast<uInt>(std::min(scratch_.size(), most_at_once - count));
            const int result = inflate(&stream_, Z_SYNC_FLUSH);
            if (result != Z_OK && result != Z_BUF_ERROR && result != Z_STREAM_END) {
                throw broken_image(where, stream_.msg == nullptr ? "no zlib stream" : stream_.msg);
            }
            ended_ = result == Z_STREAM_END;
            count += static_cast<std::size_t>(stream_.next_out - scratch_.data());
        } while (stream_.avail_out == 0 && count < most_at_once);
        return count;
    }

    z_stream stream_ = {};
    std::array<std::uint8_t, 65536> scratch_;
    bool ended_ = false;
};

}  // namespace

Image decode_png(Bytes file, std::string_view where) {
    const Chunks chunks = read_chunks(file, where);
    const Header header = read_header(chunks.header, where);
    check_pixels(header.width, header.height, where);
    if (header.color == color_palette && chunks.palette.size / 3 > max_palette_size) {
        throw broken_image(where, "a palette of more than 256 colours");
    }
    Image image(header.width, header.height);
    Decoder decoder(header, chunks.palette, image);
    decoder.run(chunks.data, where);
    if (header.interlaced || decoder.ends_in_nothing()) {
        Recount().run(chunks.data, size_of_rows(header), where);
    }
    return image;
}

}  // namespace vitaie::detail

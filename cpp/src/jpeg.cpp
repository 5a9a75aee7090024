/// JPEG through libjpeg-turbo, with the verdicts that Pillow gives.
///
/// Three steps: the segments that pixels depend on are picked out, Pillow's own reading of the
/// header is repeated on them, and libjpeg decodes them, fed by blocks as Pillow feeds it, so
/// that a file which ends or breaks in any place is judged alike.
#include <algorithm>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it
#include <cstring>
#include <new>
#include <vector>

#include <jpeglib.h>
// These two in this order.
#include <jerror.h>

#include "image.hpp"

namespace vitaie::detail {

namespace {

/// Bytes that Pillow hands to libjpeg at once.
constexpr std::size_t block_size = 65536;

/// A progressive file may refine its picture this often; each scan of a few bytes costs as much
/// as decoding the whole, so without a limit a small file could keep a machine busy for hours.
constexpr int max_scans = 1000;

// The second byte of a marker.
constexpr int sof_first = 0xC0;
constexpr int dht = 0xC4;
constexpr int jpg = 0xC8;
constexpr int dac = 0xCC;
constexpr int sof_last = 0xCF;
constexpr int rst0 = 0xD0;
constexpr int soi = 0xD8;
constexpr int eoi = 0xD9;
constexpr int sos = 0xDA;
constexpr int dqt = 0xDB;
constexpr int dhp = 0xDE;
constexpr int app0 = 0xE0;
constexpr int app14 = 0xEE;
constexpr int app15 = 0xEF;
constexpr int jpg0 = 0xF0;
constexpr int jpg13 = 0xFD;
constexpr int com = 0xFE;
constexpr int tem = 0x01;

/// Markers without a length.
bool is_bare(int code) {
    return code == tem || (rst0 <= code && code <= soi);
}

/// Segments that only describe. APP0 (JFIF) and APP14 (Adobe) name the colour space.
bool is_metadata(int code) {
    return code == com || (app0 < code && code <= app15 && code != app14);
}

bool is_frame(int code) {
    return code == dhp ||
           (sof_first <= code && code <= sof_last && code != dht && code != jpg && code != dac);
}

/// Returns where the next marker's FF is, or `file.size`; what stands before it is junk.
std::size_t find_marker(Bytes file, std::size_t position) {
    while (position + 1 < file.size) {
        const void* found = std::memchr(file.data + position, 0xFF, file.size - position - 1);
        if (found == nullptr) {
            break;
        }
        position = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - file.data);
        if (file.data[position + 1] != 0x00 && file.data[position + 1] != 0xFF) {
            return position;
        }
        ++position;
    }
    return file.size;
}

bool has_end(Bytes file, std::size_t position) {
    for (std::size_t end = file.size; end >= position + 2; --end) {
        if (file.data[end - 2] == 0xFF && file.data[end - 1] == eoi) {
            return true;
        }
    }
    return false;
}

std::string marker_text(int code, std::size_t position) {
    char text[40];
    std::snprintf(text, sizeof text, "marker FF%02X at byte %zu", static_cast<unsigned>(code),
                  position);
    return text;
}

/// Returns a JPEG without the segments that only describe it; one without its end is broken.
std::vector<std::uint8_t> essentials(Bytes file, std::string_view where) {
    std::vector<std::uint8_t> kept;
    kept.reserve(file.size);
    kept.assign(file.data, file.data + 2);
    std::size_t position = 2;
    while (true) {
        const std::size_t start = find_marker(file, position);
        if (start == file.size) {
            throw broken_image(where, "no end of image");
        }
        const int code = file.data[start + 1];
        position = start + 2;
        if (code == sos) {
            if (!has_end(file, position)) {
                throw broken_image(where, "no end of image");
            }
            kept.insert(kept.end(), file.data + start, file.data + file.size);
            return kept;
        }
        if (!is_bare(code)) {
            const std::size_t length =
                file.size - position < 2 ? 0 : big_endian(file.data + position, 2);
            if (length < 2 || length > file.size - position || code == eoi) {
                throw broken_image(where, marker_text(code, start));
            }
            position += length;
        }
        if (!is_metadata(code)) {
            kept.insert(kept.end(), file.data + start, file.data + position);
        }
    }
}

/// What Pillow reads of a frame before it decodes.
struct Frame {
    std::int64_t width = 0;
    std::int64_t height = 0;
    int components = 0;  ///< 1 grey, 3 RGB, 4 CMYK; 0 when there is no frame
};

Frame read_frame(Bytes segment, std::string_view where) {
    if (segment.size < 6 || segment.size % 3 != 0) {
        throw broken_image(where, "a frame header cut short");
    }
    const int bits = segment.data[0];
    const int components = segment.data[5];
    if (bits != 8) {
        throw broken_image(where, std::to_string(bits) + " bits a sample");
    }
    if (components != 1 && components != 3 && components != 4) {
        throw broken_image(where, std::to_string(components) + " components");
    }
    return {big_endian(segment.data + 3, 2), big_endian(segment.data + 1, 2), components};
}

void check_quantization(Bytes segment, std::string_view where) {
    std::size_t position = 0;
    while (position < segment.size) {
        position += segment.data[position] >> 4 == 0 ? 1 + 64 : 1 + 2 * 64;
    }
    if (position > segment.size) {
        throw broken_image(where, "a quantization table cut short");
    }
}

/// JFIF's version and Adobe's are read by Pillow without a look at how long the segment is.
void check_application(Bytes segment, const char* name, std::string_view where) {
    const std::size_t length = std::strlen(name);
    if (segment.size >= length && std::memcmp(segment.data, name, length) == 0 &&
        segment.size < 7) {
        throw broken_image(where, std::string("a segment ") + name + " cut short");
    }
}

/// Reads the header as Pillow does: a second frame counts instead of the first, and a segment
/// that Pillow does not know is searched for markers. libjpeg refuses both, but later, when the
/// number of pixels has been judged.
Frame read_header(Bytes file, std::string_view where) {
    Frame frame;
    std::size_t position = 2;
    while (true) {
        position = find_marker(file, position);
        if (position == file.size) {
            throw broken_image(where, "no scan");
        }
        const int code = file.data[position + 1];
        const std::size_t start = position;
        position += 2;
        if (code < sof_first) {
            throw broken_image(where, marker_text(code, start));
        }
        if (is_bare(code) || code == jpg || (jpg0 <= code && code <= jpg13) || code == eoi) {
            continue;
        }
        const std::size_t left = file.size - position;
        const std::size_t length = left < 2 ? 0 : big_endian(file.data + position, 2);
        if (left < 2 || length > left) {
            throw broken_image(where, marker_text(code, start));
        }
        const Bytes segment = {file.data + position + 2, length < 2 ? 0 : length - 2};
        position += segment.size + 2;
        if (is_frame(code)) {
            frame = read_frame(segment, where);
        } else if (code == dqt) {
            check_quantization(segment, where);
        } else if (code == app0) {
            check_application(segment, "JFIF", where);
        } else if (code == app14) {
            check_application(segment, "Adobe", where);
        } else if (code == sos) {
            break;
        }
    }
    if (frame.components == 0) {
        throw broken_image(where, "no frame");
    }
    return frame;
}

/// libjpeg's error handler, and the place to go on after an error.
struct ErrorHandler {
    jpeg_error_mgr base;
    std::jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
};

/// Leaves libjpeg, which would call exit().
[[noreturn]] void leave(j_common_ptr info) {
    auto* handler = reinterpret_cast<ErrorHandler*>(info->err);
    (*info->err->format_message)(info, handler->message);
    std::longjmp(handler->jump, 1);
}

void ignore_warning(j_common_ptr /*info*/) {}

void ignore_source(j_decompress_ptr /*info*/) {}

/// Says that there is no more for now, upon which libjpeg returns to us.
boolean suspend(j_decompress_ptr /*info*/) {
    return FALSE;
}

struct BlockSource {
    jpeg_source_mgr base;
    std::size_t skip;  ///< bytes to skip that were not there yet
};

void skip(j_decompress_ptr info, long count) {
    auto* source = reinterpret_cast<BlockSource*>(info->src);
    const auto wanted = count < 0 ? 0 : static_cast<std::size_t>(count);
    const std::size_t taken = std::min(wanted, source->base.bytes_in_buffer);
    source->base.next_input_byte += taken;
    source->base.bytes_in_buffer -= taken;
    source->skip = wanted - taken;
}

void count_scans(j_common_ptr info) {
    if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > max_scans) {
        auto* handler = reinterpret_cast<ErrorHandler*>(info->err);
        std::snprintf(handler->message, sizeof handler->message, "more than %d scans", max_scans);
        std::longjmp(handler->jump, 1);
    }
}

std::uint8_t clamp_to_byte(int value) {
    return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

void grey_to_rgb(const std::uint8_t* grey, std::int64_t width, std::uint8_t* rgb) {
    for (std::int64_t x = 0; x < width; ++x, rgb += 3) {
        rgb[0] = rgb[1] = rgb[2] = grey[x];
    }
}

/// Pillow's conversion of samples that count as inverted: with k = 255 - the fourth and
/// c = 255 - each other, `clip(k' - MULDIV255(c, k'))` where k' = 255 - k.
void inverted_cmyk_to_rgb(const std::uint8_t* cmyk, std::int64_t width, std::uint8_t* rgb) {
    for (std::int64_t x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
        const int paper = cmyk[3];
        for (int channel = 0; channel < 3; ++channel) {
            const int product = (255 - cmyk[channel]) * paper + 128;
            rgb[channel] = clamp_to_byte(paper - (((product >> 8) + product) >> 8));
        }
    }
}

/// One decompression. Every call into libjpeg is inside `advance`, whose frame holds nothing
/// that a longjmp would leave behind.
class Decoder {
  public:
    Decoder(Bytes file, const Frame& frame, Image& image);
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder() { jpeg_destroy_decompress(&info_); }

    void run(std::string_view where);

  private:
    enum class Step { create, header, start, rows };
    enum class Outcome { done, suspended, failed };

    Outcome advance();
    bool continue_steps();
    void create();
    bool start_matches_frame();
    bool read_rows();

    Bytes file_;
    Frame frame_;
    Image& image_;
    std::vector<std::uint8_t> samples_;  ///< one row, where it is not RGB
    Step step_ = Step::create;
    std::int64_t y_ = 0;
    jpeg_decompress_struct info_ = {};
    ErrorHandler error_ = {};
    BlockSource source_ = {};
    jpeg_progress_mgr progress_ = {};
};

Decoder::Decoder(Bytes file, const Frame& frame, Image& image)
    : file_(file), frame_(frame), image_(image) {
    if (frame.components != 3) {
        samples_.resize(static_cast<std::size_t>(frame.width * frame.components));
    }
    info_.err = jpeg_std_error(&error_.base);
    error_.base.error_exit = leave;
    error_.base.output_message = ignore_warning;
    source_.base.next_input_byte = file.data;
    source_.base.init_source = ignore_source;
    source_.base.fill_input_buffer = suspend;
    source_.base.skip_input_data = skip;
    source_.base.resync_to_restart = jpeg_resync_to_restart;
    source_.base.term_source = ignore_source;
    progress_.progress_monitor = count_scans;
}

void Decoder::run(std::string_view where) {
    const std::uint8_t* const end = file_.data + file_.size;
    while (true) {
        const std::uint8_t* given = source_.base.next_input_byte + source_.base.bytes_in_buffer;
        if (given == end) {
            throw broken_image(where, "the data end early");
        }
        source_.base.bytes_in_buffer +=
            std::min<std::size_t>(block_size, static_cast<std::size_t>(end - given));
        if (source_.skip > 0) {
            skip(&info_, static_cast<long>(source_.skip));
            if (source_.skip > 0) {
                continue;
            }
        }
        switch (advance()) {
            case Outcome::done:
                return;
            case Outcome::suspended:
                break;
            case Outcome::failed:
                if (error_.base.msg_code == JERR_OUT_OF_MEMORY) {
                    throw std::bad_alloc();
                }
                throw broken_image(where, error_.message);
        }
    }
}

Decoder::Outcome Decoder::advance() {
    if (setjmp(error_.jump) != 0) {
        return Outcome::failed;
    }
    return continue_steps() ? Outcome::done : Outcome::suspended;
}

/// Goes on until all is decoded, or libjpeg needs more bytes than it was given so far.
bool Decoder::continue_steps() {
    if (step_ == Step::create) {
        create();
        step_ = Step::header;
    }
    if (step_ == Step::header) {
        int found = JPEG_HEADER_TABLES_ONLY;
        while (found == JPEG_HEADER_TABLES_ONLY) {
            found = jpeg_read_header(&info_, FALSE);
        }
        if (found == JPEG_SUSPENDED) {
            return false;
        }
        info_.out_color_space = frame_.components == 1   ? JCS_GRAYSCALE
                                : frame_.components == 3 ? JCS_RGB
                                                         : JCS_CMYK;
        step_ = Step::start;
    }
    if (step_ == Step::start) {
        if (jpeg_start_decompress(&info_) == FALSE) {
            return false;
        }
        if (!start_matches_frame()) {
            std::strcpy(error_.message, "two headers that differ");
            std::longjmp(error_.jump, 1);
        }
        step_ = Step::rows;
    }
    if (!read_rows()) {
        return false;
    }
    // What follows the last row may be broken but need not be there.
    jpeg_finish_decompress(&info_);
    return true;
}

void Decoder::create() {
    jpeg_create_decompress(&info_);
    info_.src = &source_.base;
    info_.progress = &progress_;
}

/// The image was made by our reading of the header; nothing may be written by another one.
bool Decoder::start_matches_frame() {
    return info_.output_width == frame_.width && info_.output_height == frame_.height &&
           info_.output_components == frame_.components;
}

bool Decoder::read_rows() {
    while (y_ < frame_.height) {
        std::uint8_t* const rgb = image_.row(y_);
        JSAMPROW row = frame_.components == 3 ? rgb : samples_.data();
        if (jpeg_read_scanlines(&info_, &row, 1) != 1) {
            return false;
        }
        if (frame_.components == 1) {
            grey_to_rgb(row, frame_.width, rgb);
        } else if (frame_.components == 4) {
            inverted_cmyk_to_rgb(row, frame_.width, rgb);
        }
        ++y_;
    }
    return true;
}

}  // namespace

Image decode_jpeg(Bytes file, std::string_view where) {
    const std::vector<std::uint8_t> kept = essentials(file, where);
    const Bytes bytes = {kept.data(), kept.size()};
    const Frame frame = read_header(bytes, where);
    check_pixels(frame.width, frame.height, where);
    Image image(frame.width, frame.height);
    Decoder(bytes, frame, image).run(where);
    return image;
}

}  // namespace vitaie::detail

// vitaie-encode-jpeg: JPEGs of every sampling, scan script and entropy coding that libjpeg-turbo
// writes, for tests. Pillow writes three samplings, one script and no arithmetic coding.
//
//   vitaie-encode-jpeg WIDTH HEIGHT SPACE QUALITY SCANS CODING RESTART SAMPLING…   (lines of stdin)
//
// Each line is followed by the pixels, and answered with a line of the file's size and the file.
// SPACE is grey, rgb, ycc (3 bytes a pixel), cmyk or ycck (4 bytes); SCANS together, apart or
// progressive; CODING huffman or arithmetic; RESTART the MCU rows between markers, or 0; SAMPLING
// HxV, one for each component.
#include <cstddef>
#include <cstdio>  // jpeglib.h needs it
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace {

struct Spaces {
    J_COLOR_SPACE given;
    J_COLOR_SPACE written;
    int components;
};

Spaces spaces(const std::string& name) {
    if (name == "grey") {
        return {JCS_GRAYSCALE, JCS_GRAYSCALE, 1};
    }
    if (name == "cmyk") {
        return {JCS_CMYK, JCS_CMYK, 4};
    }
    if (name == "ycck") {
        return {JCS_CMYK, JCS_YCCK, 4};
    }
    return {JCS_RGB, name == "rgb" ? JCS_RGB : JCS_YCbCr, 3};
}

std::vector<jpeg_scan_info> scans_apart(int components) {
    std::vector<jpeg_scan_info> scans;
    for (int component = 0; component < components; ++component) {
        scans.push_back({1, {component, 0, 0, 0}, 0, 63, 0, 0});
    }
    return scans;
}

std::string encode(std::istream& words) {
    unsigned width = 0;
    unsigned height = 0;
    int quality = 0;
    int restart = 0;
    std::string space;
    std::string scans;
    std::string coding;
    words >> width >> height >> space >> quality >> scans >> coding >> restart;
    const Spaces colors = spaces(space);
    std::vector<JSAMPLE> pixels(std::size_t{width} * height *
                                static_cast<std::size_t>(colors.components));
    std::cin.read(reinterpret_cast<char*>(pixels.data()),
                  static_cast<std::streamsize>(pixels.size()));

    jpeg_compress_struct info = {};
    jpeg_error_mgr errors = {};
    info.err = jpeg_std_error(&errors);  // a mistake of the test ends the program
    jpeg_create_compress(&info);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&info, &data, &size);
    info.image_width = width;
    info.image_height = height;
    info.input_components = colors.components;
    info.in_color_space = colors.given;
    jpeg_set_defaults(&info);
    jpeg_set_colorspace(&info, colors.written);
    jpeg_set_quality(&info, quality, TRUE);
    info.arith_code = coding == "arithmetic" ? TRUE : FALSE;
    info.restart_in_rows = restart;
    for (int component = 0; component < colors.components; ++component) {
        char cross = 'x';
        words >> info.comp_info[component].h_samp_factor >> cross >>
            info.comp_info[component].v_samp_factor;
    }
    const std::vector<jpeg_scan_info> apart = scans_apart(colors.components);
    if (scans == "progressive") {
        jpeg_simple_progression(&info);
    } else if (scans == "apart") {
        info.scan_info = apart.data();
        info.num_scans = static_cast<int>(apart.size());
    }
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < height) {
        JSAMPROW row = pixels.data() + std::size_t{info.next_scanline} * width *
                                           static_cast<std::size_t>(colors.components);
        jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    std::string file(reinterpret_cast<char*>(data), size);
    std::free(data);
    return file;
}

}  // namespace

int main() {
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        const std::string file = encode(words);
        std::cout << file.size() << '\n' << file << std::flush;
    }
    return 0;
}

// vitaie-fuzz: changed files for every parser that strangers' bytes reach, until the time is over.
//
//   vitaie-fuzz SECONDS SEED FILE…
//
// Files are manifests, .npy arrays, TorchScript archives, JPEGs and PNGs, told apart by content. An
// error of ours is an answer; a crash, a hang or another exception ends the process, as a sanitizer
// does. Each input follows from SEED and its number alone.
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "digest.hpp"
#include "error.hpp"
#include "image.hpp"
#include "manifest.hpp"
#include "npy.hpp"
#include "preprocess.hpp"
#include "spec.hpp"
#include "torchscript_archive.hpp"

namespace {

using namespace vitaie::detail;

constexpr unsigned hang_s = 120;  // 2^26 pixels decoded under a sanitizer take a while
constexpr std::uint64_t told_every = 20'000;

/// splitmix64: the same numbers on every machine.
class Chance {
  public:
    explicit Chance(std::uint64_t seed) : state_(seed) {}
    std::size_t below(std::size_t count) {
        std::uint64_t mixed = state_ += 0x9E3779B97F4A7C15;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return static_cast<std::size_t>((mixed ^ (mixed >> 31)) % count);
    }

  private:
    std::uint64_t state_;
};

constexpr std::array<std::string_view, 24> tokens = {std::string_view("\0", 1),
                                                     "\xff",
                                                     "\x7f\xff\xff\xff",
                                                     std::string_view("\x80\0\0\0", 4),
                                                     std::string_view("\0\0\0\0", 4),
                                                     "\xff\xff\xff\xff",
                                                     "\xff\xd8",
                                                     "\xff\xd9",
                                                     "\xff\xda",
                                                     "\xff\xc2",
                                                     "\xff\xdd",
                                                     "IDAT",
                                                     "IEND",
                                                     "tRNS",
                                                     "PLTE",
                                                     "{",
                                                     "]",
                                                     "\"",
                                                     "-1",
                                                     "1e400",
                                                     "null",
                                                     "9007199254740993",
                                                     "\\ud800",
                                                     "shape"};

/// Changes a few places of a file.
void mutate(std::string& data, const std::string& other, Chance& chance) {
    const std::size_t changes = 1 + chance.below(6);
    for (std::size_t change = 0; change < changes && !data.empty(); ++change) {
        // Half of all changes fall on the first bytes, where headers are.
        const std::size_t reach =
            chance.below(2) == 0 ? std::min<std::size_t>(data.size(), 700) : data.size();
        const std::size_t place = chance.below(reach);
        const std::size_t length =
            std::min(data.size() - place, 1 + chance.below(chance.below(8) == 0 ? 3000 : 16));
        switch (chance.below(8)) {
            case 0:
                data[place] = static_cast<char>(data[place] ^ (1 << chance.below(8)));
                break;
            case 1:
                data[place] = static_cast<char>(chance.below(256));
                break;
            case 2: {
                const std::string_view token = tokens[chance.below(tokens.size())];
                data.replace(place, std::min(token.size(), data.size() - place), token);
                break;
            }
            case 3:
                data.insert(place, tokens[chance.below(tokens.size())]);
                break;
            case 4:
                data.erase(place, length);
                break;
            case 5:
                data.insert(place, data.substr(place, length));
                break;
            case 6: {
                const std::size_t begin = chance.below(other.size());
                data.replace(place, length, other, begin, length);
                break;
            }
            default:
                data.resize(place);
        }
    }
}

/// Makes a manifest's digest right again, so that what lies behind it is judged too.
void seal_manifest(std::string& data) {
    const std::string key = "\"manifest_digest\": \"";
    const auto digest = manifest_digest(data);
    const std::size_t place = data.find(key);
    if (digest && place != std::string::npos && place + key.size() + digest->size() < data.size()) {
        data.replace(place + key.size(), digest->size(), *digest);
    }
}

/// Makes the checksum of each chunk of a PNG right again.
void seal_png(std::string& data) {
    constexpr std::size_t frame = 12;  // length, kind and checksum
    auto* bytes = reinterpret_cast<std::uint8_t*>(data.data());
    std::size_t place = 8;
    while (place + frame <= data.size()) {
        const std::size_t length = big_endian(bytes + place, 4);
        if (length > data.size() - place - frame) {
            return;
        }
        const auto sum = static_cast<std::uint32_t>(
            ::crc32(0, bytes + place + 4, static_cast<unsigned>(length + 4)));
        for (std::size_t index = 0; index < 4; ++index) {
            bytes[place + 8 + length + index] =
                static_cast<std::uint8_t>(sum >> (8 * (3 - index)) & 0xFF);
        }
        place += frame + length;
    }
}

/// Gives a file to its parser; says whether it was good.
bool parse(const std::string& data, char kind, const Preprocess& spec) {
    try {
        if (kind == '{') {
            parse_manifest(data);
        } else if (kind == '\x93') {
            return npy_numbers(data, 5).has_value();
        } else if (kind == 'P') {
            check_archive(data, "model.ts");
        } else {
            const Bytes bytes{reinterpret_cast<const std::uint8_t*>(data.data()), data.size()};
            const Image image = decode(bytes);
            std::vector<float> tensor(
                static_cast<std::size_t>(3 * spec.crop.size * spec.crop.size));
            preprocess(image.view(), spec, tensor.data());
        }
        return true;
    } catch (const Error& error) {
        return error.line().empty();  // never: every error has its line
    }
}

}  // namespace

int main(int count, char** words) {
    if (count < 4) {
        std::cerr << "usage: vitaie-fuzz SECONDS SEED FILE…\n";
        return 2;
    }
    std::vector<std::string> files;
    for (int index = 3; index < count; ++index) {
        std::ifstream file(words[index], std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        if (files.back().empty()) {
            std::cerr << words[index] << " cannot be read, or is empty\n";
            return 2;
        }
    }
    const Preprocess spec = test::parse_spec("shorter_side,20,16,0.5,0.5,0.5,0.5,0.5,0.5");
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::stoll(words[1]));
    const std::uint64_t seed = std::stoull(words[2]);
    std::uint64_t number = 0;
    std::uint64_t good = 0;
    while (std::chrono::steady_clock::now() < end) {
        Chance chance(seed * 1'000'000'007 + number);
        std::string data = files[chance.below(files.size())];
        const char kind = data.front();
        mutate(data, files[chance.below(files.size())], chance);
        if (chance.below(4) != 0) {
            kind == '{' ? seal_manifest(data) : kind == '\x89' ? seal_png(data) : void();
        }
        ::alarm(hang_s);  // its signal ends the process
        good += parse(data, kind, spec) ? 1 : 0;
        if (++number % told_every == 0) {
            std::cerr << number << " inputs\n";
        }
    }
    std::cout << number << " inputs, " << good << " good\n";
    return 0;
}

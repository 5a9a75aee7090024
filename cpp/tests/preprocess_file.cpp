// vitaie-preprocess-file: what the C++ preprocessing makes of images, for pytest to compare with
// Python's.
//
//   vitaie-preprocess-file bytes|paths SPEC…   Reads images, or paths of images, from stdin, each
//   as
//                                              a line with its size in bytes and then the bytes,
//                                              and answers each with a line.
//   vitaie-preprocess-file kernels             Writes the names of the kernels that are compared.
//
// A SPEC is MODE,RESIZE,CROP,MEAN,MEAN,MEAN,STD,STD,STD. An answer is words with blanks between:
// the sha256 of the decoded pixels, and for each SPEC those of the crop and of the tensor. An
// error's code stands where its digests would be; after one of decoding nothing follows. Every
// kernel makes every crop; where two differ, their names are the answer.
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "digest.hpp"
#include "preprocess.hpp"
#include "spec.hpp"

namespace {

using namespace vitaie::detail;

std::vector<Kernels> kernels_here() {
    std::vector<Kernels> kernels = {best_kernels()};
    if (std::strcmp(kernels.front().name, scalar_kernels.name) != 0) {
        kernels.push_back(scalar_kernels);
    }
    return kernels;
}

std::string digest(const void* data, std::size_t size) {
    return sha256({static_cast<const char*>(data), size});
}

std::string digests(const Image& image, const Preprocess& spec) {
    try {
        const Image made = crop(image.view(), spec);
        for (const Kernels& kernels : kernels_here()) {
            const Image other = crop(image.view(), spec, "image", kernels);
            if (std::memcmp(made.row(0), other.row(0), made.bytes().size) != 0) {
                return std::string(best_kernels().name) + "!=" + kernels.name;
            }
        }
        std::vector<float> values(made.bytes().size);
        preprocess(image.view(), spec, values.data());
        return digest(made.row(0), made.bytes().size) + " " +
               digest(values.data(), values.size() * sizeof(float));
    } catch (const Error& error) {
        return std::string(error.name());
    }
}

std::string answer(const std::string& item, bool is_path, const std::vector<Preprocess>& specs) {
    try {
        const Image image =
            is_path ? decode_file(item)
                    : decode({reinterpret_cast<const std::uint8_t*>(item.data()), item.size()});
        std::string line = digest(image.row(0), image.bytes().size);
        for (const Preprocess& spec : specs) {
            line += " " + digests(image, spec);
        }
        return line;
    } catch (const Error& error) {
        return std::string(error.name());
    }
}

int answer_all(bool are_paths, const std::vector<Preprocess>& specs) {
    std::string size;
    while (std::getline(std::cin, size)) {
        std::string item(std::stoul(size), '\0');
        std::cin.read(item.data(), static_cast<std::streamsize>(item.size()));
        std::cout << answer(item, are_paths, specs) << '\n' << std::flush;
    }
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    const std::string mode = count > 1 ? arguments[1] : "";
    if (mode == "kernels") {
        for (const Kernels& kernels : kernels_here()) {
            std::cout << kernels.name << '\n';
        }
        return 0;
    }
    if (mode != "bytes" && mode != "paths") {
        std::cerr << "usage: vitaie-preprocess-file bytes|paths SPEC... | kernels\n";
        return 2;
    }
    std::vector<Preprocess> specs;
    for (int index = 2; index < count; ++index) {
        specs.push_back(test::parse_spec(arguments[index]));
    }
    return answer_all(mode == "paths", specs);
}

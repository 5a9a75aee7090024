// vitaie-time-preprocess: how long the C++ preprocessing takes, for benchmarks/cpp_preprocess.py.
//
//   vitaie-time-preprocess best|scalar|decode SPEC FILE
//
// Writes the sha256 of the tensor (of the decoded pixels for `decode`, which does no more), and
// then for each line of stdin the nanoseconds from the file's bytes in memory to the tensor, whose
// memory is there.
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "digest.hpp"
#include "preprocess.hpp"
#include "spec.hpp"

using namespace vitaie::detail;

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: vitaie-time-preprocess best|scalar|decode SPEC FILE\n";
        return 2;
    }
    const std::string way = arguments[1];
    const Kernels& kernels = way == "scalar" ? scalar_kernels : best_kernels();
    const Preprocess spec = test::parse_spec(arguments[2]);
    std::ifstream file(arguments[3], std::ios::binary);
    const std::string data{std::istreambuf_iterator<char>(file), {}};
    const Bytes bytes = {reinterpret_cast<const std::uint8_t*>(data.data()), data.size()};

    std::vector<float> values(static_cast<std::size_t>(3 * spec.crop.size * spec.crop.size));
    if (way == "decode") {
        const Image image = decode(bytes);
        const auto* pixels = reinterpret_cast<const char*>(image.row(0));
        std::cout << sha256({pixels, image.bytes().size}) << std::endl;
    } else {
        preprocess(decode(bytes).view(), spec, values.data(), "", kernels);
        const auto* numbers = reinterpret_cast<const char*>(values.data());
        std::cout << sha256({numbers, values.size() * sizeof(float)}) << std::endl;
    }
    std::string line;
    while (std::getline(std::cin, line)) {
        const auto start = std::chrono::steady_clock::now();
        const Image image = decode(bytes);
        if (way != "decode") {
            preprocess(image.view(), spec, values.data(), "", kernels);
        }
        const std::chrono::nanoseconds taken = std::chrono::steady_clock::now() - start;
        std::cout << taken.count() << std::endl;
    }
    return 0;
}

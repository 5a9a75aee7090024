// vitaie-judge: the verdicts of the C++ reader, for pytest to compare with Python's.
//
//   vitaie-judge manifests     Reads manifests from stdin, each as a line with its size in bytes
//                              and then the bytes, and answers each with a line.
//   vitaie-judge bundle PATH   Opens a bundle, checks every byte, the labels and the goldens' logits.
//   vitaie-judge npy SIZE…     Writes what numpy.save writes before a float32 array of that shape.
//
// A verdict is three words, tab between them: exit code, code and field; "0", "ok" and nothing for
// what is right. In a field, control characters are escaped already. The error's line follows.
#include <iostream>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "error.hpp"
#include "goldens.hpp"
#include "labels.hpp"
#include "manifest.hpp"
#include "npy.hpp"

namespace {

using namespace vitaie::detail;

template <class Act>
void judge(Act act) {
    try {
        act();
        std::cout << "0\tok\t\t\n" << std::flush;
    } catch (const Error& error) {
        std::cout << error.exit_code() << '\t' << error.name() << '\t' << error.field() << '\t'
                  << error.line() << '\n'
                  << std::flush;
    }
}

int judge_manifests() {
    std::string size;
    while (std::getline(std::cin, size)) {
        std::string data(std::stoul(size), '\0');
        std::cin.read(data.data(), static_cast<std::streamsize>(data.size()));
        judge([&] { parse_manifest(data); });
    }
    return 0;
}

int judge_bundle(const std::string& path) {
    judge([&] {
        const Bundle bundle = Bundle::open(path);
        bundle.check();
        read_labels(bundle);
        for (const auto& golden : bundle.manifest().goldens) {
            golden_logits(bundle, golden);
        }
    });
    return 0;
}

}  // namespace

int main(int count, char** values) {
    const std::vector<std::string> arguments(values + 1, values + count);
    if (arguments.size() == 1 && arguments[0] == "manifests") {
        return judge_manifests();
    }
    if (arguments.size() == 2 && arguments[0] == "bundle") {
        return judge_bundle(arguments[1]);
    }
    if (!arguments.empty() && arguments[0] == "npy") {
        std::vector<std::size_t> shape;
        for (std::size_t index = 1; index < arguments.size(); ++index) {
            shape.push_back(std::stoul(arguments[index]));
        }
        std::cout << npy_header(shape);
        return 0;
    }
    std::cerr << "usage: vitaie-judge manifests | bundle PATH | npy SIZE…\n";
    return 2;
}

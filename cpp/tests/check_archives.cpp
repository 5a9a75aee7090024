// vitaie-check-archives: what C++ says of TorchScript archives, for pytest to compare with Python.
//
// Reads archives from stdin, each as a line with its size in bytes and then the bytes, and answers
// each with a line: "ok", or the error's.
#include <iostream>
#include <string>

#include "error.hpp"
#include "torchscript_archive.hpp"

int main() {
    std::string size;
    while (std::getline(std::cin, size)) {
        std::string data(std::stoul(size), '\0');
        std::cin.read(data.data(), static_cast<std::streamsize>(data.size()));
        try {
            vitaie::detail::check_archive(data, "model.ts");
            std::cout << "ok" << std::endl;
        } catch (const vitaie::detail::Error& error) {
            std::cout << error.line() << std::endl;
        }
    }
}

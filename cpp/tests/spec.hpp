// A preprocessing as one word, as the programs that pytest and the benchmarks start take it.
#pragma once

#include <sstream>
#include <string>

#include "manifest.hpp"

namespace vitaie::detail::test {

/// Parses MODE,RESIZE,CROP,MEAN,MEAN,MEAN,STD,STD,STD.
inline Preprocess parse_spec(const std::string& text) {
    Preprocess spec;
    std::istringstream words(text);
    char comma = ',';
    std::getline(words, spec.resize.mode, ',');
    words >> spec.resize.size >> comma >> spec.crop.size;
    for (auto* values : {&spec.mean, &spec.std}) {
        for (double& value : *values) {
            words >> comma >> value;
        }
    }
    spec.scale = 255;
    return spec;
}

}  // namespace vitaie::detail::test

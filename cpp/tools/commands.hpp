/// The commands of vitaie-edge that are over in a moment; bench.hpp has the one that is not.
///
/// Each prints its result and returns its exit code, or throws what a user can cause.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "console.hpp"

namespace vitaie::edge {

/// Says what a bundle is and claims, on one screen.
int info(const Options& options);

/// Re-checks every claim that can be checked here.
int verify(const Options& options);

struct ClassifyOptions {
    std::vector<std::string> images;
    std::int64_t top_k = 5;
};

/// Prints the most probable classes of images.
int classify(const Options& options, const ClassifyOptions& chosen);

struct PreprocessOptions {
    std::string image;
    std::string output;
};

/// Writes what the model sees of an image, as .npy.
int preprocess(const Options& options, const PreprocessOptions& chosen);

/// Compares a target of this machine with TorchScript.
int check(const Options& options, std::int64_t batch_size);

}  // namespace vitaie::edge

/// `vitaie-edge bench`: how fast a target is here, measured so that the figure can be trusted, or
/// said to be INVALID.
///
/// The protocol is that of `vitaie bench`, and so is the record, which `vitaie-build attach` puts
/// into the bundle: docs/measuring.md. Calls are made in fresh processes, see timing.hpp, and judged
/// by measurement.hpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "console.hpp"

namespace vitaie::edge {

struct BenchOptions {
    std::optional<std::int64_t> batch_size;
    std::string scenario;  ///< single_stream or offline; empty for what the batch size means
    std::string boundary = "host";
    std::string protocol = "quick";
    std::string data;  ///< a folder of photographs; empty for the goldens with noise
    std::optional<std::int64_t> seed;
    std::string output;  ///< where the record goes; empty for nowhere
};

/// Measures and prints; returns 0 when the figure counts, and 6 when it does not.
int bench(const Options& options, const BenchOptions& chosen);

}  // namespace vitaie::edge

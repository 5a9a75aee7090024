/// Where a measurement is taken: machine, processor and its instruction sets, and what they can do
/// at most. As runtime/vitaie/runtime/_environment.py says it, so that records compare.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vitaie::edge {

struct Environment {
    std::string created;  ///< now, UTC
    std::string machine;
    std::string processor;
    std::vector<std::string> features;  ///< the instruction sets that arithmetic depends on, sorted
    std::int64_t processors = 0;        ///< that this process may run on
};

Environment environment();

/// The processor's model and features, as /proc/cpuinfo's text says them; the board's name where
/// that has none.
struct Processor {
    std::string model;
    std::vector<std::string> features;
};
Processor read_processor(std::string_view cpuinfo, std::string_view board);

/// What float32 arithmetic on so many threads cannot exceed, in TFLOPS; nothing where the
/// instruction sets are not known. A multiply-add counts as two.
std::optional<double> peak_tflops(const Environment& environment, std::int64_t threads);

}  // namespace vitaie::edge

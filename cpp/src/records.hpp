/// What a manifest says of measurements: accuracy, speed, the gates they passed, and the levels that
/// were tried.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vitaie::detail {

/// The most threads an engine is told to use: some start as many as they are told.
inline constexpr std::int64_t max_threads = 1024;
/// The most images that an engine is given at once.
inline constexpr std::int64_t max_batch = 1024;

class Field;

/// A 95% Wilson score interval, in percent.
struct Interval {
    double low = 0;
    double high = 0;
};

/// A count and what it is of all images, in percent, with its interval.
struct Rate {
    std::int64_t count = 0;
    double percent = 0;
    Interval wilson95;
};

/// Which images: the digest is over the sorted list of (path, size, sha256, label). `missing` could
/// not be read and are none of `images`.
struct Dataset {
    std::string name;
    std::string digest;
    std::int64_t images = 0;
    std::int64_t missing = 0;
};

/// Target and source model on the same images: right by both, by one only, by neither.
struct Paired {
    std::int64_t both = 0;
    std::int64_t target_only = 0;
    std::int64_t source_only = 0;
    std::int64_t neither = 0;
};

/// One measurement of accuracy, bound to the target it was taken on.
///
/// `source_top1` to `agreement` are of the source model on the same images, and all empty where it
/// was not run. `agreement` counts the images on which both have the same first class.
struct AccuracyRecord {
    std::string target_digest;
    std::string preprocess_digest;
    Dataset dataset;
    std::int64_t batch_size = 0;
    std::int64_t threads = 0;
    Rate top1;
    Rate top5;
    std::optional<Rate> source_top1;
    std::optional<Rate> source_top5;
    std::optional<Paired> paired;
    std::optional<std::int64_t> agreement;
    std::string processor;
    std::string created;
    std::string predictions;
};

/// One measurement of speed, bound to the target it was taken on.
///
/// `latency_ms` holds the percentiles that there are calls enough for, by their name such as
/// `p99.9`; `variation` is the standard deviation over the mean; `placement` the share of operators
/// on the device.
struct PerformanceRecord {
    std::string target_digest;
    std::string boundary;
    std::string scenario;
    std::string protocol;
    std::int64_t batch_size = 0;
    std::int64_t threads = 0;
    std::string inputs;
    std::string processor;
    std::string created;
    std::string verdict;
    std::vector<std::string> reasons;
    double fps = 0;
    std::map<std::string, double> latency_ms;
    double variation = 0;
    std::optional<double> placement;
    double peak_mib = 0;
    std::string latencies;
};

/// One requirement, such as `top1>=84.0`, and how the evidence decided it for a target.
struct GateRecord {
    std::string require;
    std::string target_digest;
    std::string verdict;
    std::string reason;
};

/// One optimisation level that was built and measured so that the fastest could be chosen.
///
/// `target_digest` is of the target at this level, whether it ships or not.
struct LevelRecord {
    std::int64_t optim_level = 0;
    std::string target_digest;
    std::string boundary;
    std::string scenario;
    std::int64_t batch_size = 0;
    double fps = 0;
    std::string verdict;
    std::vector<GateRecord> gates;
    std::string latencies;
    std::optional<std::string> predictions;
    bool chosen = false;
};

AccuracyRecord read_accuracy(const Field& field);
PerformanceRecord read_performance(const Field& field);
GateRecord read_gate(const Field& field);
LevelRecord read_level(const Field& field);

}  // namespace vitaie::detail

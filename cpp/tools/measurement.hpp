/// What timed calls come to: the figures, and whether they count.
///
///     const Judgement found = judge(measurement, gflop, peak_tflops(environment, threads));
///
/// The rules are those of manifests/vitaie/manifests/measurement.py, which judges the record again
/// wherever it goes; pytest compares the two.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vitaie::edge {

/// One fresh process: its start, its warm-up, and every timed call. Times in nanoseconds are from
/// the first call's start, one pair for each call, in order.
struct Run {
    double load_s = 0;
    double first_call_s = 0;
    std::int64_t warm_up_calls = 0;
    double warm_up_s = 0;
    std::vector<std::int64_t> start_ns;
    std::vector<std::int64_t> end_ns;
    double peak_mib = 0;
};

/// What was checked beside the clock: outputs of timed calls, compared with those of an untimed
/// run; and median latencies on distinct images and on a repeated one, measured in turns.
struct Honesty {
    std::int64_t seed = 0;
    std::int64_t checked = 0;
    std::int64_t differing = 0;
    double distinct_ms = 0;
    double repeated_ms = 0;
    bool artifacts_unchanged = false;
};

/// The calls of one target, timed.
struct Measurement {
    std::string protocol;  ///< quick or full
    std::int64_t batch_size = 1;
    std::vector<Run> runs;  ///< at least one, each of at least one call
    Honesty honesty;
};

/// The figures of a measurement, and why they do not count: nothing when they do.
struct Judgement {
    double fps = 0;                            ///< images over wall time
    std::vector<double> runs_fps;              ///< the same of each run
    std::map<std::string, double> latency_ms;  ///< percentiles, of those that have calls enough
    double variation = 0;  ///< of the pooled latencies: standard deviation over mean
    std::vector<std::string> reasons;
};

/// \param gflop Of one image, a multiply-add counted as two.
/// \param peak_tflops What the hardware does at most; nothing when it is not known.
Judgement judge(const Measurement& measurement, double gflop, std::optional<double> peak_tflops);

/// Says whether every third of a run lies within 5% of the mean of the three.
bool is_stable(const Run& run);

/// The value in the middle of the sorted values, or the mean of the two there; 0 of none.
double median(std::vector<double> values);

}  // namespace vitaie::edge

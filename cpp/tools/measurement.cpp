#include "measurement.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

namespace vitaie::edge {

namespace {

/// Of each protocol: seconds of each run, calls of all together, runs.
struct Minimum {
    double seconds;
    std::size_t calls;
    std::size_t runs;
};
constexpr Minimum quick = {10, 64, 1};
constexpr Minimum full = {60, 662, 5};

constexpr std::int64_t least_warm_up_calls = 10;
constexpr double least_warm_up_s = 1;
constexpr double window_tolerance = 0.05;

// By how much a repeated image may be faster; the same where a call takes less than so many ms.
constexpr double repeated_usual = 0.10;
constexpr double repeated_short = 0.20;
constexpr double short_ms = 0.2;

/// A nearest-rank percentile in thousandths, and the latencies it needs.
struct Percentile {
    const char* name;
    std::size_t thousandths;
    std::size_t least;
};
constexpr std::array<Percentile, 5> all_percentiles = {{{"p50", 500, 1},
                                                        {"p90", 900, 64},
                                                        {"p95", 950, 130},
                                                        {"p99", 990, 662},
                                                        {"p99.9", 999, 6636}}};

template <class... Values>
std::string formatted(const char* format, Values... values) {
    std::array<char, 400> text{};
    std::snprintf(text.data(), text.size(), format, values...);
    return text.data();
}

std::vector<double> latencies_ms(const Run& run) {
    std::vector<double> latencies;
    for (std::size_t call = 0; call < run.start_ns.size(); ++call) {
        latencies.push_back(static_cast<double>(run.end_ns[call] - run.start_ns[call]) / 1e6);
    }
    return latencies;
}

double seconds_of(const Run& run) {
    return static_cast<double>(run.end_ns.back() - run.start_ns.front()) / 1e9;
}

// long double carries the rounding of millions of latencies far below what a double shows.
double mean(const double* values, std::size_t count) {
    return static_cast<double>(std::accumulate(values, values + count, 0.0L) /
                               static_cast<long double>(count));
}

/// How far one third of a run lies off the mean of the three at most; of at least three calls.
double deviation(const std::vector<double>& latencies) {
    std::array<double, 3> means{};
    for (std::size_t part = 0; part < 3; ++part) {
        const std::size_t begin = latencies.size() * part / 3;
        means[part] = mean(latencies.data() + begin, latencies.size() * (part + 1) / 3 - begin);
    }
    const double middle = (means[0] + means[1] + means[2]) / 3;
    double largest = 0;
    for (const double each : means) {
        largest = std::max(largest, std::abs(each - middle));
    }
    return largest / middle;
}

std::map<std::string, double> percentiles(std::vector<double> latencies) {
    std::sort(latencies.begin(), latencies.end());
    std::map<std::string, double> found;
    for (const auto& each : all_percentiles) {
        if (latencies.size() >= each.least) {
            const std::size_t rank = (each.thousandths * latencies.size() + 999) / 1000;
            found[each.name] = latencies[rank - 1];
        }
    }
    return found;
}

/// The sample standard deviation over the mean.
double coefficient_of_variation(const std::vector<double>& latencies) {
    if (latencies.size() < 2) {
        return 0;
    }
    const double middle = mean(latencies.data(), latencies.size());
    long double squares = 0;
    for (const double each : latencies) {
        squares += static_cast<long double>(each - middle) * (each - middle);
    }
    const auto freedom = static_cast<long double>(latencies.size() - 1);
    return std::sqrt(static_cast<double>(squares / freedom)) / middle;
}

void append_dishonesty(const Honesty& honesty, std::vector<std::string>& reasons) {
    if (honesty.checked == 0) {
        reasons.emplace_back("no output of a timed call was checked");
    }
    if (honesty.differing != 0) {
        reasons.push_back(std::to_string(honesty.differing) + " of " +
                          std::to_string(honesty.checked) +
                          " outputs of timed calls are not the model's");
    }
    const double allowed = honesty.distinct_ms < short_ms ? repeated_short : repeated_usual;
    if (honesty.repeated_ms < (1 - allowed) * honesty.distinct_ms) {
        reasons.push_back(
            formatted("a repeated image took %.4g ms and distinct ones %.4g ms: outputs are kept "
                      "by input",
                      honesty.repeated_ms, honesty.distinct_ms));
    }
    if (!honesty.artifacts_unchanged) {
        reasons.emplace_back("the artifacts were changed while they were timed");
    }
}

void append_reasons(std::size_t number, const Run& run, const Minimum& least,
                    std::vector<std::string>& reasons) {
    const std::string name = "run " + std::to_string(number);
    if (seconds_of(run) < least.seconds) {
        reasons.push_back(name + formatted(" lasted %.3g s, at least %g s are needed",
                                           seconds_of(run), least.seconds));
    }
    if (run.warm_up_calls < least_warm_up_calls || run.warm_up_s < least_warm_up_s) {
        reasons.push_back(name + " was warmed up by " + std::to_string(run.warm_up_calls) +
                          " calls in " + formatted("%.3g s, at least ", run.warm_up_s) +
                          std::to_string(least_warm_up_calls) +
                          formatted(" and %g s are needed", least_warm_up_s));
    }
    const std::vector<double> latencies = latencies_ms(run);
    if (latencies.size() < 3) {
        reasons.push_back(name + " is too short to be seen as stable");
    } else if (!is_stable(run)) {
        reasons.push_back(name + formatted(" was not stable: a third of it lies %.3g%% off",
                                           100 * deviation(latencies)));
    }
}

}  // namespace

bool is_stable(const Run& run) {
    const std::vector<double> latencies = latencies_ms(run);
    return latencies.size() >= 3 && deviation(latencies) <= window_tolerance;
}

double median(std::vector<double> values) {
    if (values.empty()) {
        return 0;
    }
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Judgement judge(const Measurement& measurement, double gflop, std::optional<double> peak_tflops) {
    const Minimum& least = measurement.protocol == "full" ? full : quick;
    Judgement found;
    std::vector<double> pooled;
    std::int64_t wall_ns = 0;
    for (const Run& run : measurement.runs) {
        const std::vector<double> latencies = latencies_ms(run);
        pooled.insert(pooled.end(), latencies.begin(), latencies.end());
        wall_ns += run.end_ns.back() - run.start_ns.front();
        const auto images =
            static_cast<double>(run.start_ns.size()) * static_cast<double>(measurement.batch_size);
        found.runs_fps.push_back(images / seconds_of(run));
    }
    found.fps = static_cast<double>(pooled.size()) * static_cast<double>(measurement.batch_size) *
                1e9 / static_cast<double>(wall_ns);
    found.variation = coefficient_of_variation(pooled);

    auto& reasons = found.reasons;
    if (measurement.runs.size() < least.runs) {
        reasons.push_back(std::to_string(measurement.runs.size()) + " runs, at least " +
                          std::to_string(least.runs) + " are needed");
    }
    if (pooled.size() < least.calls) {
        reasons.push_back(std::to_string(pooled.size()) + " calls, at least " +
                          std::to_string(least.calls) + " are needed");
    }
    for (std::size_t index = 0; index < measurement.runs.size(); ++index) {
        append_reasons(index + 1, measurement.runs[index], least, reasons);
    }
    append_dishonesty(measurement.honesty, reasons);
    if (peak_tflops && found.fps * gflop / 1000 > *peak_tflops) {
        reasons.push_back(formatted(
            "%.6g images a second at %g GFLOP each are more than the hardware's %.6g TFLOPS: the "
            "timing is at fault",
            found.fps, gflop, *peak_tflops));
    }
    found.latency_ms = percentiles(std::move(pooled));
    return found;
}

}  // namespace vitaie::edge

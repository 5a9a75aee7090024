#include "records.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "error.hpp"
#include "fields.hpp"

namespace vitaie::detail {

namespace {

std::string read_text(const Field& field) {
    return field.text();
}

Interval read_interval(const Field& field) {
    Interval interval;
    field.object([&](Members& members) {
        interval.low = members["low"].percent();
        interval.high = members["high"].percent();
    });
    return interval;
}

Rate read_rate(const Field& field) {
    Rate rate;
    field.object([&](Members& members) {
        rate.count = members["count"].count();
        rate.percent = members["percent"].percent();
        rate.wilson95 = read_interval(members["wilson95"]);
    });
    return rate;
}

Dataset read_dataset(const Field& field) {
    Dataset dataset;
    field.object([&](Members& members) {
        dataset.name = members["name"].text();
        dataset.digest = members["digest"].sha256();
        dataset.images = members["images"].positive();
        dataset.missing = members["missing"].count();
    });
    return dataset;
}

Paired read_paired(const Field& field) {
    Paired paired;
    field.object([&](Members& members) {
        paired.both = members["both"].count();
        paired.target_only = members["target_only"].count();
        paired.source_only = members["source_only"].count();
        paired.neither = members["neither"].count();
    });
    return paired;
}

std::string read_boundary(const Field& field) {
    return field.word({"device", "host", "end_to_end"});
}

std::string read_scenario(const Field& field) {
    return field.word({"single_stream", "offline"});
}

std::string read_verdict(const Field& field) {
    return field.word({"VALID", "INVALID"});
}

std::map<std::string, double> read_times(const Field& field) {
    std::map<std::string, double> times;
    field.entries(
        [&](const std::string& key, const Field& value) { times[key] = value.positive_real(); });
    return times;
}

/// A metric that may be required, which way, and the values it may be held against, in millionths.
struct Metric {
    std::string_view requires_that;
    std::int64_t least;
    std::int64_t most;
};

constexpr std::int64_t one = 1'000'000;
constexpr std::int64_t largest = 1'000'000'000 * one - 1;

constexpr std::array<Metric, 11> metrics = {{
    {"top1>=", 0, 100 * one},
    {"top5>=", 0, 100 * one},
    {"top1_drop<=", 1, 100 * one - 1},
    {"agreement>=", 0, one},
    {"placement>=", 0, one},
    {"fps>=", 0, largest},
    {"latency_p50_ms<=", 0, largest},
    {"latency_p90_ms<=", 0, largest},
    {"latency_p95_ms<=", 0, largest},
    {"latency_p99_ms<=", 0, largest},
    {"latency_p99.9_ms<=", 0, largest},
}};

bool are_digits(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// Returns a number such as `84.0` in millionths; -1 unless it is written in the one way that a gate
/// is: up to 9 digits, a point, up to 6 decimals, and no zero that could be left out.
std::int64_t millionths(std::string_view text) {
    const std::size_t point = text.find('.');
    if (point == std::string_view::npos) {
        return -1;
    }
    const std::string_view whole = text.substr(0, point);
    const std::string_view decimals = text.substr(point + 1);
    if (!are_digits(whole) || whole.size() > 9 || (whole.size() > 1 && whole[0] == '0') ||
        !are_digits(decimals) || decimals.size() > 6 ||
        (decimals.size() > 1 && decimals.back() == '0')) {
        return -1;
    }
    const std::string padded = std::string(decimals) + std::string(6 - decimals.size(), '0');
    return std::stoll(std::string(whole)) * one + std::stoll(padded);
}

bool is_requirement(std::string_view text) {
    return std::any_of(metrics.begin(), metrics.end(), [text](const Metric& metric) {
        const std::string_view head = metric.requires_that;
        if (text.substr(0, head.size()) != head) {
            return false;
        }
        const std::int64_t number = millionths(text.substr(head.size()));
        return metric.least <= number && number <= metric.most;
    });
}

std::string read_requirement(const Field& field) {
    std::string text = field.text(0, SIZE_MAX);
    const bool is_text = field.value() != nullptr && field.value()->as<std::string>() != nullptr;
    if (is_text && !is_requirement(text)) {
        field.refuse(Code::E_MANIFEST_VALUE, "a gate such as top1>=84.0");
    }
    return text;
}

}  // namespace

AccuracyRecord read_accuracy(const Field& field) {
    AccuracyRecord record;
    field.object([&](Members& members) {
        record.target_digest = members["target_digest"].sha256();
        record.preprocess_digest = members["preprocess_digest"].sha256();
        record.dataset = read_dataset(members["dataset"]);
        record.batch_size = members["batch_size"].integer(1, max_batch);
        record.threads = members["threads"].integer(1, max_threads);
        record.top1 = read_rate(members["top1"]);
        record.top5 = read_rate(members["top5"]);
        record.source_top1 = members["source_top1"].unless_null(read_rate);
        record.source_top5 = members["source_top5"].unless_null(read_rate);
        record.paired = members["paired"].unless_null(read_paired);
        record.agreement =
            members["agreement"].unless_null([](const Field& count) { return count.count(); });
        record.processor = members["processor"].text();
        record.created = members["created"].date();
        record.predictions = members["predictions"].path();
    });
    return record;
}

PerformanceRecord read_performance(const Field& field) {
    PerformanceRecord record;
    field.object([&](Members& members) {
        record.target_digest = members["target_digest"].sha256();
        record.boundary = read_boundary(members["boundary"]);
        record.scenario = read_scenario(members["scenario"]);
        record.protocol = members["protocol"].word({"quick", "full"});
        record.batch_size = members["batch_size"].integer(1, max_batch);
        record.threads = members["threads"].integer(1, max_threads);
        record.inputs = members["inputs"].word({"photographs", "goldens with seeded noise"});
        record.processor = members["processor"].text();
        record.created = members["created"].date();
        record.verdict = read_verdict(members["verdict"]);
        record.reasons = members["reasons"].elements(read_text);
        record.fps = members["fps"].positive_real();
        record.latency_ms = read_times(members["latency_ms"]);
        record.variation = members["variation"].measure();
        record.placement =
            members["placement"].unless_null([](const Field& share) { return share.share(); });
        record.peak_mib = members["peak_mib"].measure();
        record.latencies = members["latencies"].path();
    });
    return record;
}

GateRecord read_gate(const Field& field) {
    GateRecord gate;
    field.object([&](Members& members) {
        gate.require = read_requirement(members["require"]);
        gate.target_digest = members["target_digest"].sha256();
        gate.verdict = members["verdict"].word({"pass", "fail", "undecidable"});
        gate.reason = members["reason"].text();
    });
    return gate;
}

LevelRecord read_level(const Field& field) {
    LevelRecord level;
    field.object([&](Members& members) {
        level.optim_level = members["optim_level"].integer(0, 2);
        level.target_digest = members["target_digest"].sha256();
        level.boundary = read_boundary(members["boundary"]);
        level.scenario = read_scenario(members["scenario"]);
        level.batch_size = members["batch_size"].integer(1, max_batch);
        level.fps = members["fps"].positive_real();
        level.verdict = read_verdict(members["verdict"]);
        level.gates = members["gates"].elements(read_gate);
        level.latencies = members["latencies"].path();
        level.predictions =
            members["predictions"].unless_null([](const Field& path) { return path.path(); });
        level.chosen = members["chosen"].boolean();
    });
    return level;
}

}  // namespace vitaie::detail

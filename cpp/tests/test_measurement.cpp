// What timed calls come to; whole records are compared with Python's verdict by pytest.
#include <catch2/catch.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "../tools/environment.hpp"
#include "../tools/measurement.hpp"

using namespace vitaie::edge;

namespace {

/// A run of `count` calls of so many ms, one right after the other, warmed up as it should be.
Run run_of(std::size_t count, double ms) {
    Run run;
    run.warm_up_calls = 10;
    run.warm_up_s = 1;
    const auto step = static_cast<std::int64_t>(ms * 1e6);
    for (std::size_t call = 0; call < count; ++call) {
        run.start_ns.push_back(static_cast<std::int64_t>(call) * step);
        run.end_ns.push_back(run.start_ns.back() + step);
    }
    return run;
}

Measurement measurement(std::vector<Run> runs) {
    return {"quick", 1, std::move(runs), {1, 20, 0, 10, 10, true}};
}

std::vector<std::string> reasons(const Measurement& measured) {
    return judge(measured, 1, std::nullopt).reasons;
}

/// Expects one reason, which begins like this.
void refused(const Measurement& measured, const std::string& begin) {
    const auto found = reasons(measured);
    REQUIRE(found.size() == 1);
    CHECK(found[0].substr(0, begin.size()) == begin);
}

}  // namespace

TEST_CASE("a long, steady and honest run is valid") {
    const Judgement found = judge(measurement({run_of(1000, 10)}), 1, 1);
    CHECK(found.reasons.empty());
    CHECK(found.fps == Approx(100));
    CHECK(found.runs_fps == std::vector<double>{found.fps});
    CHECK(found.variation == Approx(0).margin(1e-12));
    CHECK(found.latency_ms.size() == 4);
    CHECK(found.latency_ms.at("p99") == Approx(10));
}

TEST_CASE("a percentile without calls enough is left out") {
    CHECK(judge(measurement({run_of(63, 200)}), 1, 1).latency_ms.size() == 1);
    CHECK(judge(measurement({run_of(64, 200)}), 1, 1).latency_ms.size() == 2);
    CHECK(judge(measurement({run_of(6636, 2)}), 1, 1).latency_ms.size() == 5);
}

TEST_CASE("percentiles are nearest-rank") {
    Run run = run_of(100, 100);
    for (std::size_t call = 0; call < 100; ++call) {
        run.end_ns[call] = run.start_ns[call] + static_cast<std::int64_t>(call + 1) * 1'000'000;
    }
    const auto found = judge(measurement({run}), 1, std::nullopt).latency_ms;
    CHECK(found.at("p50") == Approx(50));
    CHECK(found.at("p90") == Approx(90));
}

TEST_CASE("a run that is too short, of too few calls, or not warmed up does not count") {
    refused(measurement({run_of(999, 10)}), "run 1 lasted 9.99 s, at least 10 s are needed");
    refused(measurement({run_of(63, 200)}), "63 calls, at least 64 are needed");
    Run cold = run_of(1000, 10);
    cold.warm_up_calls = 9;
    refused(measurement({cold}), "run 1 was warmed up by 9 calls in 1 s, at least 10 and 1 s");
}

TEST_CASE("a run that slows down does not count") {
    Run run = run_of(1010, 10);
    for (std::size_t call = 674; call < 1010; ++call) {
        run.end_ns[call] -= 2'000'000;
    }
    refused(measurement({run}), "run 1 was not stable: a third of it lies ");
    CHECK_FALSE(is_stable(run));
}

TEST_CASE("outputs that are not the model's, and a repeated image that is faster, do not count") {
    Measurement measured = measurement({run_of(1000, 10)});
    measured.honesty.differing = 1;
    refused(measured, "1 of 20 outputs of timed calls are not the model's");
    measured = measurement({run_of(1000, 10)});
    measured.honesty.repeated_ms = 8.9;
    refused(measured, "a repeated image took 8.9 ms and distinct ones 10 ms");
    measured.honesty.repeated_ms = 9.1;
    CHECK(reasons(measured).empty());
    measured.honesty.artifacts_unchanged = false;
    refused(measured, "the artifacts were changed");
    measured = measurement({run_of(1000, 10)});
    measured.honesty.checked = 0;
    refused(measured, "no output of a timed call was checked");
}

TEST_CASE("more than the hardware can do is the timing's fault") {
    const Measurement measured = measurement({run_of(1000, 10)});
    CHECK(judge(measured, 35, 3.6).reasons.empty());
    CHECK(judge(measured, 35, 3.4).reasons.size() == 1);
}

TEST_CASE("a full measurement is five runs of a minute") {
    Measurement measured = measurement({run_of(140, 500)});
    measured.protocol = "full";
    CHECK(reasons(measured).size() == 2);  // runs, calls
    measured.runs.assign(5, run_of(140, 500));
    CHECK(reasons(measured).empty());
}

TEST_CASE("a processor is named as Python names it") {
    const Processor x86 = read_processor(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse2 avx2 fma\n\n"
        "processor\t: 1\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse2\n",
        "");
    CHECK(x86.model == "Some CPU @ 2 GHz");
    CHECK(x86.features == std::vector<std::string>{"avx2", "fma", "sse2"});
    const Processor arm = read_processor(
        "processor : 0\nFeatures : fp asimd evtstrm\nCPU implementer : 0x41\nCPU part : 0xd0b\n",
        std::string_view("Board 5\0", 8));
    CHECK(arm.model == "ARM implementer 0x41 part 0xd0b, Board 5");
    CHECK(arm.features == std::vector<std::string>{"asimd", "fp"});
}

TEST_CASE("the peak follows from the widest units and no clock that is sold") {
    Environment here;
    here.processors = 2;
    here.features = {"avx", "avx2", "fma", "sse2"};
    CHECK(*peak_tflops(here, 1) == Approx(0.208));
    CHECK(*peak_tflops(here, 8) == Approx(0.416));
    here.features = {"sme", "asimd"};
    CHECK_FALSE(peak_tflops(here, 1));
    here.features = {};
    CHECK_FALSE(peak_tflops(here, 1));
}

#include "bench.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>  // jpeglib.h needs it
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <jpeglib.h>

#include "bundle.hpp"
#include "bytes.hpp"
#include "descriptor.hpp"
#include "digest.hpp"
#include "engine.hpp"
#include "environment.hpp"
#include "image.hpp"
#include "json.hpp"
#include "labels.hpp"
#include "measurement.hpp"
#include "output.hpp"
#include "photographs.hpp"
#include "preprocess.hpp"
#include "timing.hpp"

namespace vitaie::edge {

namespace {

using namespace detail;

constexpr std::int64_t least_images = 64;
constexpr std::int64_t offline_batch = 16;
constexpr int noise = 16;  // of 255: how far a pixel of a golden is moved at most
constexpr int jpeg_quality = 90;
/// What an Ascend 310P3 does in half precision, published at second hand: more than in any other.
constexpr double device_tflops = 70;
constexpr std::int64_t least_side = 16;  // of a photograph: it is shifted often enough

/// How a protocol is carried out: fresh processes, each of which times calls for at least so long,
/// and at least so many, after the machine was left alone for so long.
struct Plan {
    std::int64_t runs;
    double seconds;
    std::int64_t calls;
    double settle_s;
};
constexpr Plan quick = {1, 10, 64, 0};
constexpr Plan full = {5, 60, 133, 5};  // 5 x 133 is 662 and a little

/// What is measured, every default filled in.
struct Settings {
    detail::EngineOptions engine;  ///< its threads are never 0
    std::int64_t batch_size = 1;
    std::string scenario;
    std::string boundary;
    std::string protocol;
    std::int64_t seed = 0;
};

void check_word(const char* argument, const std::string& word, const char* one, const char* other) {
    if (word != one && word != other) {
        throw Error(Code::E_ARGUMENT, argument)
            .expected(std::string(one) + " or " + other)
            .got(word);
    }
}

/// Refuses what no bundle could be measured with, before one is opened.
Settings settings(const Options& options, const BenchOptions& chosen) {
    check_options(options.engine);
    check_word("protocol", chosen.protocol, "quick", "full");
    if (chosen.boundary != "device") {
        check_word("boundary", chosen.boundary, "host", "end_to_end");
    }
    const std::int64_t size = chosen.batch_size.value_or(1);
    std::string scenario = chosen.scenario;
    if (scenario.empty()) {
        scenario = size > 1 ? "offline" : "single_stream";
    }
    check_word("scenario", scenario, "single_stream", "offline");
    if (size < 1 || size > detail::max_batch) {
        throw Error(Code::E_ARGUMENT, "batch_size")
            .expected("1 to " + std::to_string(detail::max_batch))
            .got(size);
    }
    if (scenario == "single_stream" && size != 1) {
        throw Error(Code::E_ARGUMENT, "batch_size").expected("1 for single_stream").got(size);
    }
    const std::int64_t seed = chosen.seed ? *chosen.seed : std::random_device()();
    if (seed < 0 || seed > json::max_int) {
        throw Error(Code::E_ARGUMENT, "seed")
            .expected("0 to " + std::to_string(json::max_int))
            .got(seed);
    }
    Settings what;
    what.engine = options.engine;
    if (what.engine.threads == 0) {
        what.engine.threads = std::min<std::int64_t>(available_cpus(), max_threads);
    }
    what.batch_size = chosen.batch_size ? size : (scenario == "offline" ? offline_batch : 1);
    what.scenario = scenario;
    what.boundary = chosen.boundary;
    what.protocol = chosen.protocol;
    what.seed = seed;
    return what;
}

/// The target to measure, which must have the boundary that is asked for.
const Target& target_of(const Bundle& bundle, const Options& options, const Settings& settings) {
    const Target& target = choose_target(bundle.manifest(), options.target);
    check_device_of({&target}, options.engine);
    if (settings.boundary == "device") {
        throw Error(Code::E_TARGET_UNAVAILABLE, target.id)
            .field("boundary device")
            .got(is_on_device(target)
                     ? "no way to wait for a device is documented in C++ but a copy from it"
                     : "a target on the " + target.device + ", which has no memory of its own")
            .hint("Measure it with --boundary host.");
    }
    return target;
}

// Inputs

/// What calls are fed: the bytes of float32 tensors, or for `end_to_end` of image files.
struct Inputs {
    std::string kind;  ///< as records name it
    std::vector<std::string> images;
    std::string digest;
};

/// Moves every value of an image a little.
Image with_noise(const Image& image, Chance& chance) {
    Image noisy(image.width(), image.height());
    for (std::int64_t y = 0; y < image.height(); ++y) {
        for (std::int64_t x = 0; x < 3 * image.width(); ++x) {
            const int moved =
                image.row(y)[x] + static_cast<int>(chance.below(2 * noise + 1)) - noise;
            noisy.row(y)[x] = static_cast<std::uint8_t>(std::clamp(moved, 0, 255));
        }
    }
    return noisy;
}

/// The digest of a record's inputs: over the canonical JSON of the digests of all.
std::string digest_of(const std::vector<std::string>& images) {
    json::Array digests;
    for (const auto& image : images) {
        digests.push_back({sha256(image)});
    }
    return sha256(canonical({std::move(digests)}));
}

/// How many images give calls enough that are not like each other.
std::size_t needed_images(const Settings& settings) {
    return static_cast<std::size_t>(std::max(least_images, 2 * settings.batch_size));
}

/// Draws photographs of a dataset; two that the model sees alike count as one.
Inputs photographs(const Bundle& bundle, const Settings& settings, const std::string& data) {
    const Preprocess& spec = bundle.manifest().preprocess;
    const std::vector<std::string> files = find_photographs(data, read_labels(bundle));
    const std::size_t needed = needed_images(settings);
    Chance chance(static_cast<std::uint64_t>(settings.seed));
    std::set<std::string> seen;
    Inputs inputs{"photographs", {}, ""};
    for (const std::int64_t index : chance.permutation(static_cast<std::int64_t>(files.size()))) {
        const std::string& path = files[static_cast<std::size_t>(index)];
        const ImageFile file = read_image_file(path);
        const Image picture = decode(file.bytes(), path);
        if (std::min(picture.width(), picture.height()) < least_side) {
            throw Error(Code::E_ARGUMENT, path)
                .expected("a photograph of at least " + std::to_string(least_side) +
                          " pixels each way")
                .got(std::to_string(picture.width()) + "x" + std::to_string(picture.height()));
        }
        std::vector<float> tensor(static_cast<std::size_t>(3 * spec.crop.size * spec.crop.size));
        preprocess(picture.view(), spec, tensor.data(), path);
        std::string numbers(reinterpret_cast<const char*>(tensor.data()),
                            sizeof(float) * tensor.size());
        if (seen.insert(sha256(numbers)).second) {
            const Bytes whole = file.bytes();
            inputs.images.push_back(
                settings.boundary == "end_to_end"
                    ? std::string(reinterpret_cast<const char*>(whole.data), whole.size)
                    : std::move(numbers));
        }
        if (inputs.images.size() == needed) {
            inputs.digest = digest_of(inputs.images);
            return inputs;
        }
    }
    throw Error(Code::E_DATASET_SMALL, data)
        .expected("at least " + std::to_string(needed) + " different images")
        .got(static_cast<std::int64_t>(inputs.images.size()))
        .hint("Leave --data out to time the bundle's goldens with noise.");
}

/// Makes pictures of the bundle's goldens, each with noise of its own.
Inputs noisy_goldens(const Bundle& bundle, const Settings& settings) {
    const Manifest& manifest = bundle.manifest();
    const bool is_whole = settings.boundary == "end_to_end";
    std::vector<Image> pictures;
    for (const auto& golden : manifest.goldens) {
        const Memory file = bundle.read(is_whole ? golden.source : golden.crop);
        pictures.push_back(decode({file.data(), file.size()}));
    }
    Chance chance(static_cast<std::uint64_t>(settings.seed));
    Inputs inputs{"goldens with seeded noise", {}, ""};
    for (std::size_t index = 0; index < needed_images(settings); ++index) {
        const Image picture = with_noise(pictures[index % pictures.size()], chance);
        if (is_whole) {
            inputs.images.push_back(jpeg(picture));
        } else {
            const auto pixels = static_cast<std::size_t>(picture.width() * picture.height());
            std::vector<float> tensor(3 * pixels);
            normalize(picture, manifest.preprocess, tensor.data());
            inputs.images.emplace_back(reinterpret_cast<const char*>(tensor.data()),
                                       sizeof(float) * tensor.size());
        }
    }
    inputs.digest = digest_of(inputs.images);
    return inputs;
}

/// A file of no name that holds the images, for processes to map.
Descriptor in_memory(const std::vector<std::string>& images) {
    Descriptor memory(::memfd_create("vitaie-inputs", MFD_CLOEXEC));
    for (const auto& image : images) {
        for (std::string_view rest = image; memory && !rest.empty();) {
            const ssize_t count = ::write(memory.get(), rest.data(), rest.size());
            if (count < 0 && errno != EINTR) {
                memory = Descriptor();
            }
            rest.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
        }
    }
    if (!memory) {
        throw Error(Code::E_DISK, "the inputs in memory")
            .got(std::generic_category().message(errno));
    }
    return memory;
}

// Measuring

/// The answers of the timing processes, and of the one that was not timed.
struct Measured {
    std::vector<Timed> runs;
    Outputs outputs;
};

/// Times the target in fresh processes, then runs some of the same inputs untimed. A run that is
/// not stable is made once more; what the second gives stands.
Measured measure(Request request, const Plan& plan, bool quiet, Steps& steps) {
    Measured measured;
    request.task = "time";
    request.seconds = plan.seconds;
    request.calls = plan.calls;
    request.warm_up_calls = 10;
    request.warm_up_s = 1;
    request.settle_s = plan.settle_s;
    request.turns_least = 15;
    request.turns_most = 301;
    request.turns_s = 2;
    for (std::int64_t number = 0; number < plan.runs; ++number) {
        steps("run " + std::to_string(number + 1) + " of " + std::to_string(plan.runs) + ", " +
              formatted("%g", plan.seconds) + " s");
        request.run = 2 * number;
        Timed timed = time_target(request);
        if (!is_stable(timed.run)) {
            say("run " + std::to_string(number + 1) + " was not stable; it is made once more",
                quiet);
            ++request.run;
            timed = time_target(request);
        }
        for (const auto& [window, digest] : timed.kept) {
            request.windows.push_back(window);
        }
        for (const auto& [shift, digest] : timed.kept_distinct) {
            request.shifts.push_back(shift);
        }
        measured.runs.push_back(std::move(timed));
    }
    steps("outputs");
    request.task = "outputs";
    measured.outputs = run_untimed(request);
    if (!measured.outputs.goldens_hold) {
        throw Error(Code::E_CLAIM_FALSE, request.bundle)
            .field("goldens in " + request.target)
            .got(measured.outputs.goldens)
            .hint("How fast it is does not matter.");
    }
    return measured;
}

/// Compares what timed calls gave with what the same inputs give untimed, to the last bit.
Honesty honesty_of(const Measured& measured, std::int64_t seed) {
    Honesty honesty;
    honesty.seed = seed;
    honesty.artifacts_unchanged = measured.outputs.unchanged;
    std::vector<double> distinct;
    std::vector<double> repeated;
    const auto compare = [&honesty](const std::vector<Kept>& timed, auto& untimed) {
        for (const auto& [input, digest] : timed) {
            ++honesty.checked;
            honesty.differing += digest == *untimed++ ? 0 : 1;
        }
    };
    auto window = measured.outputs.windows.begin();
    auto shift = measured.outputs.shifts.begin();
    for (const Timed& timed : measured.runs) {
        compare(timed.kept, window);
        compare(timed.kept_distinct, shift);
        distinct.insert(distinct.end(), timed.distinct_ms.begin(), timed.distinct_ms.end());
        repeated.insert(repeated.end(), timed.repeated_ms.begin(), timed.repeated_ms.end());
        honesty.artifacts_unchanged = honesty.artifacts_unchanged && timed.unchanged;
    }
    honesty.distinct_ms = median(std::move(distinct));
    honesty.repeated_ms = median(std::move(repeated));
    return honesty;
}

// What is told

Json run_json(const Run& run) {
    return {{"load_s", run.load_s},
            {"first_call_s", run.first_call_s},
            {"warm_up_calls", run.warm_up_calls},
            {"warm_up_s", run.warm_up_s},
            {"start_ns", run.start_ns},
            {"end_ns", run.end_ns},
            {"peak_mib", run.peak_mib}};
}

/// The share of operators on the device; null where nobody counted.
Json placement_json(const Target& target) {
    const auto share = placement_of(target);
    return share ? Json(*share) : Json();
}

/// The digest of a preprocessing, as records bind it: over the canonical JSON of its member of the
/// manifest.
std::string preprocess_digest(const Bundle& bundle) {
    const json::Object manifest =
        json::parse_object(bundle.manifest_text(), bundle.folder(), max_manifest_bytes);
    return sha256(canonical(*json::find(manifest, "preprocess")));
}

/// The record that travels: manifests/vitaie/manifests/measurement.py reads and judges it.
Json record_json(const Bundle& bundle, const Target& target, const Settings& settings,
                 const Inputs& inputs, const Measurement& measurement, const Environment& here,
                 const std::map<std::string, std::string>& engine) {
    const Manifest& manifest = bundle.manifest();
    Json record;
    record["format"] = "vitaie-performance";
    record["format_version"] = 1;
    record["subject"] = {{"name", manifest.name},
                         {"content_digest", manifest.content_digest},
                         {"target", target.id},
                         {"target_digest", target.target_digest},
                         {"preprocess_digest", preprocess_digest(bundle)}};
    record["boundary"] = settings.boundary;
    record["scenario"] = settings.scenario;
    record["protocol"] = settings.protocol;
    record["batch_size"] = settings.batch_size;
    record["threads"] = settings.engine.threads;
    record["inputs"] = {{"kind", inputs.kind},
                        {"count", inputs.images.size()},
                        {"seed", settings.seed},
                        {"digest", inputs.digest}};
    record["runs"] = Json::array();
    for (const Run& run : measurement.runs) {
        record["runs"].push_back(run_json(run));
    }
    const Honesty& honesty = measurement.honesty;
    record["honesty"] = {{"seed", honesty.seed},
                         {"checked", honesty.checked},
                         {"differing", honesty.differing},
                         {"distinct_ms", honesty.distinct_ms},
                         {"repeated_ms", honesty.repeated_ms},
                         {"artifacts_unchanged", honesty.artifacts_unchanged}};
    record["placement"] = placement_json(target);
    Json packages = engine;
    packages["vitaie"] = VITAIE_VERSION;
    record["environment"] = {{"created", here.created},        {"machine", here.machine},
                             {"processor", here.processor},    {"features", here.features},
                             {"processors", here.processors},  {"python", "none: vitaie-edge"},
                             {"packages", std::move(packages)}};
    return record;
}

/// The document of --json: a record's summary.
Json summary_json(const Bundle& bundle, const Target& target, const Settings& settings,
                  const Inputs& inputs, const Measurement& measurement, const Judgement& found,
                  const Environment& here, const std::string& output) {
    Json document;
    document["path"] = utf8(bundle.folder());
    document["version"] = bundle.manifest().version;
    document["output"] = output.empty() ? Json() : Json(utf8(output));
    document["target"] = target.id;
    document["double"] = is_by_double(target);
    document["target_digest"] = target.target_digest;
    document["boundary"] = settings.boundary;
    document["scenario"] = settings.scenario;
    document["protocol"] = settings.protocol;
    document["batch_size"] = settings.batch_size;
    document["threads"] = settings.engine.threads;
    document["processor"] = here.processor;
    document["inputs"] = inputs.kind;
    document["images"] = inputs.images.size();
    document["seed"] = settings.seed;
    document["verdict"] = found.reasons.empty() ? "VALID" : "INVALID";
    document["reasons"] = found.reasons;
    document["fps"] = found.fps;
    document["runs_fps"] = found.runs_fps;
    std::size_t calls = 0;
    double load_s = 0;
    double first_call_s = 0;
    double peak_mib = 0;
    for (const Run& run : measurement.runs) {
        calls += run.start_ns.size();
        load_s = std::max(load_s, run.load_s);
        first_call_s = std::max(first_call_s, run.first_call_s);
        peak_mib = std::max(peak_mib, run.peak_mib);
    }
    document["calls"] = calls;
    document["latency_ms"] = found.latency_ms;
    document["variation"] = found.variation;
    document["load_s"] = load_s;
    document["first_call_s"] = first_call_s;
    document["placement"] = placement_json(target);
    document["peak_mib"] = peak_mib;
    return document;
}

void print_row(const std::string& key, const std::string& value) {
    print_line(key + std::string(11 - key.size(), ' ') + printable(value, 400));
}

/// The summary as lines for people; the figure that is quoted comes last. An INVALID measurement
/// has no such figure: nothing that looks for it finds one.
void print_summary(const Json& shown, const Honesty& honesty) {
    const auto text = [&shown](const char* key) { return shown.at(key).get<std::string>(); };
    const auto whole = [&shown](const char* key) {
        return std::to_string(shown.at(key).get<std::int64_t>());
    };
    const auto real = [&shown](const char* key) { return shown.at(key).get<double>(); };
    const std::string warning = shown.at("double").get<bool>() ? ", " + std::string(by_double) : "";
    print_row("target", text("target") + ", " + whole("threads") + " threads, " +
                            text("processor") + warning);
    print_row("measured", text("boundary") + ", " + text("scenario") + ", batch " +
                              whole("batch_size") + ", " + text("protocol") + ": " +
                              whole("calls") + " calls on " + whole("images") + " " +
                              text("inputs") + ", seed " + whole("seed"));
    print_row("start", "loaded in " + formatted("%.3g", real("load_s")) + " s, first call " +
                           formatted("%.4g", 1000 * real("first_call_s")) + " ms");
    const auto rates = shown.at("runs_fps").get<std::vector<double>>();
    if (rates.size() > 1) {
        const auto [least, most] = std::minmax_element(rates.begin(), rates.end());
        print_row("runs", std::to_string(rates.size()) + ", " + formatted("%.2f", *least) + " to " +
                              formatted("%.2f", *most) + " images a second");
    }
    std::string latencies;
    for (const auto& [name, time] : shown.at("latency_ms").items()) {
        latencies += name + " " + formatted("%.4g", time.get<double>()) + " ms, ";
    }
    print_row("latency", latencies + "variation " + formatted("%.3f", real("variation")));
    print_row("memory", formatted("%.0f", real("peak_mib")) + " MiB at most");
    print_row("checked", std::to_string(honesty.checked - honesty.differing) + " of " +
                             std::to_string(honesty.checked) +
                             " outputs equal untimed ones; a repeated image " +
                             formatted("%.4g", honesty.repeated_ms) + " ms, distinct ones " +
                             formatted("%.4g", honesty.distinct_ms) + " ms");
    if (shown.at("placement").is_number() && real("placement") < 1) {
        print_row("placement",
                  formatted("%.1f", 100 * real("placement")) + "% of the operators on the device");
    }
    print_line(text("verdict") == "VALID" ? "FPS: " + formatted("%.2f", real("fps"))
                                          : "INVALID: no speed is claimed");
}

}  // namespace

int bench(const Options& options, const BenchOptions& chosen) {
    if (!chosen.output.empty()) {
        check_output(chosen.output);
    }
    const Settings what = settings(options, chosen);
    const Bundle bundle = Bundle::open(options.bundle);
    const Target& target = target_of(bundle, options, what);
    const Plan& plan = what.protocol == "full" ? full : quick;
    Steps steps(static_cast<std::size_t>(plan.runs) + 2, options.quiet);
    steps("inputs");
    const Inputs inputs =
        chosen.data.empty() ? noisy_goldens(bundle, what) : photographs(bundle, what, chosen.data);
    const Descriptor memory = in_memory(inputs.images);

    Request request;
    request.bundle = bundle.folder();
    request.target = target.id;
    request.target_digest = target.target_digest;
    request.boundary = what.boundary;
    request.batch_size = what.batch_size;
    request.engine = what.engine;
    request.memory = memory.get();
    for (const auto& image : inputs.images) {
        request.sizes.push_back(static_cast<std::int64_t>(image.size()));
    }
    request.seed = what.seed;
    Measured measured = measure(std::move(request), plan, options.quiet, steps);

    Measurement measurement{what.protocol, what.batch_size, {}, honesty_of(measured, what.seed)};
    for (Timed& timed : measured.runs) {
        measurement.runs.push_back(std::move(timed.run));
    }
    const Environment here = environment();
    const auto peak = is_on_device(target) ? std::optional(device_tflops)
                                           : peak_tflops(here, what.engine.threads);
    const Judgement found = judge(measurement, bundle.manifest().model.gflop, peak);
    const Json shown =
        summary_json(bundle, target, what, inputs, measurement, found, here, chosen.output);
    if (!options.json) {
        print_summary(shown, measurement.honesty);
    }
    if (!chosen.output.empty()) {
        const Json record = record_json(bundle, target, what, inputs, measurement, here,
                                        measured.runs.front().packages);
        write_output(chosen.output, record.dump(-1, ' ', true) + "\n");
    }
    if (options.json) {
        print_json(shown);
    }
    if (found.reasons.empty()) {
        if (chosen.output.empty()) {
            suggest(options.quiet, {"bench", bundle.folder(), "-o", "RECORD.json"});
        } else {
            suggest(options.quiet, {"vitaie-build", "attach", bundle.folder(), chosen.output});
        }
        return 0;
    }
    for (const auto& reason : found.reasons) {
        say("INVALID: " + reason, false);
    }
    const Error error =
        Error(Code::E_SPEED_INVALID, target.id)
            .got(found.reasons.front())
            .hint(
                "No gate accepts it. Where it was not stable, leave the machine alone and run it "
                "again.");
    say(error.line(), false);
    return error.exit_code();
}

std::string jpeg(const Image& image) {
    jpeg_compress_struct info{};
    jpeg_error_mgr errors{};
    info.err = ::jpeg_std_error(&errors);
    // Into memory, only memory can be what lacks.
    errors.error_exit = [](j_common_ptr) {
        say(Error(Code::E_MEMORY, program).line(), false);
        ::_exit(5);
    };
    ::jpeg_create_compress(&info);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    ::jpeg_mem_dest(&info, &data, &size);
    info.image_width = static_cast<JDIMENSION>(image.width());
    info.image_height = static_cast<JDIMENSION>(image.height());
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    ::jpeg_set_defaults(&info);
    ::jpeg_set_quality(&info, jpeg_quality, TRUE);
    ::jpeg_start_compress(&info, TRUE);
    for (std::int64_t y = 0; y < image.height(); ++y) {
        auto* row = const_cast<JSAMPLE*>(image.row(y));
        ::jpeg_write_scanlines(&info, &row, 1);
    }
    ::jpeg_finish_compress(&info);
    ::jpeg_destroy_compress(&info);
    std::string file(reinterpret_cast<const char*>(data), size);
    std::free(data);
    return file;
}

}  // namespace vitaie::edge

#include "verify.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

#include "digest.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "goldens.hpp"
#include "image.hpp"
#include "labels.hpp"
#include "model.hpp"
#include "preprocess.hpp"

namespace vitaie::detail {

namespace {

/// A target that claims to need more than these proves nothing by its goldens: the second is of
/// reduced precision, which is held to an angle.
constexpr double max_tolerance = 1e-3;
constexpr double max_reduced_tolerance = 0.1;
constexpr double least_cosine = 0.99;
/// Of a difference of float32 logits, which a ratio is taken of in doubles.
constexpr double rounding = 1e-6;
constexpr std::size_t top_k = 5;
constexpr std::int64_t least_seeded = 4;
constexpr std::uint32_t seed = 1;

constexpr std::string_view published = "published figures";

/// What a bundle says and none of its bytes can show, with the reason.
constexpr std::array<std::pair<std::string_view, std::string_view>, 5> unseen = {{
    {"architecture and gflop", "as the card says; not counted from the graph"},
    {"source checkpoint", "it is not part of the bundle; its sha256 is, to compare"},
    {published, "of this variant elsewhere; of these bytes only a measurement says it"},
    {"toolchain", "what made the bundle cannot be seen in it"},
    {"credits of the goldens", "who made a picture cannot be seen in it"},
}};

using Logits = std::vector<float>;

/// "1,234,567"
std::string grouped(std::int64_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t place = digits.size(); place > 3;) {
        place -= 3;
        digits.insert(place, ",");
    }
    return digits;
}

std::string exponent(const char* format, double number) {
    char digits[32];
    std::snprintf(digits, sizeof digits, format, number);
    return digits;
}

std::string numbered(std::size_t index) {
    return (index < 10 ? "golden 0" : "golden ") + std::to_string(index);
}

/// Checks every artifact's digest; for a chunked one, of the whole too.
Claim check_files(const Bundle& bundle) {
    std::vector<std::string> checked;
    std::int64_t size = 0;
    for (const auto& artifact : bundle.manifest().artifacts) {
        size += artifact.size;
        if (artifact.chunks.empty()) {
            continue;
        }
        const std::string digest = sha256(bundle.read(artifact.path).view());
        if (digest != artifact.sha256) {
            throw Error(Code::E_BUNDLE_FILE_DIGEST, bundle.where(artifact.path))
                .expected(artifact.sha256)
                .got(digest);
        }
        checked.push_back(artifact.path);
    }
    bundle.check(checked);
    const std::size_t files = bundle.manifest().artifacts.size() + 1;
    return {"files", Status::is_true,
            std::to_string(files) + " files, " + grouped(size) + " bytes"};
}

/// Compares the number of parameters with that of the weights, each of which is there once.
Claim check_parameters(const Manifest& manifest) {
    std::int64_t counted = 0;
    for (const auto& weight : manifest.weights) {
        counted += weight.length / static_cast<std::int64_t>(sizeof(float));
    }
    const std::int64_t claimed = manifest.model.parameters;
    const bool is_true = counted == claimed;
    return {"parameters", is_true ? Status::is_true : Status::is_false,
            grouped(counted) + " in the weights" +
                (is_true ? "" : ", " + grouped(claimed) + " claimed")};
}

/// Decodes a picture of the bundle's own: one that is none is the bundle's fault.
Image decode_own(const Bundle& bundle, const std::string& path) {
    const Memory file = bundle.read(path);
    try {
        return decode({file.data(), file.size()});
    } catch (const Error& error) {
        throw Error(Code::E_BUNDLE_GOLDEN, bundle.where(path)).got(error.line());
    }
}

std::string digest_of(Bytes bytes) {
    return sha256({reinterpret_cast<const char*>(bytes.data), bytes.size});
}

std::string digest_of(const std::vector<float>& numbers) {
    return sha256({reinterpret_cast<const char*>(numbers.data()), sizeof(float) * numbers.size()});
}

std::vector<float> tensor_of(const Image& pixels, const Preprocess& spec) {
    std::vector<float> tensor(static_cast<std::size_t>(3 * spec.crop.size * spec.crop.size));
    normalize(pixels, spec, tensor.data());
    return tensor;
}

/// Takes a golden through decoding, crop and tensor; appends its tensor and returns the claim.
Claim check_stages(const Bundle& bundle, std::size_t index, std::vector<float>& tensors) {
    const Golden& golden = bundle.manifest().goldens[index];
    const Preprocess& spec = bundle.manifest().preprocess;
    const Image decoded = decode_own(bundle, golden.source);
    const Image pixels = [&] {
        try {
            return crop(decoded.view(), spec);
        } catch (const Error& error) {
            throw Error(Code::E_BUNDLE_GOLDEN, bundle.where(golden.source)).got(error.line());
        }
    }();
    const std::vector<float> tensor = tensor_of(pixels, spec);
    const Image shipped = decode_own(bundle, golden.crop);
    std::string wrong;
    const auto compare_stage = [&wrong](const std::string& stage, bool is_equal) {
        wrong += is_equal ? "" : (wrong.empty() ? "" : ", ") + stage;
    };
    compare_stage("size", decoded.width() == golden.width && decoded.height() == golden.height);
    compare_stage("decoded", digest_of(decoded.bytes()) == golden.decoded_sha256);
    compare_stage("crop", digest_of(pixels.bytes()) == golden.crop_sha256);
    compare_stage(golden.crop, digest_of(shipped.bytes()) == golden.crop_sha256);
    compare_stage("tensor", digest_of(tensor) == golden.tensor_sha256);
    tensors.insert(tensors.end(), tensor.begin(), tensor.end());
    return {numbered(index) + " preprocessing", wrong.empty() ? Status::is_true : Status::is_false,
            wrong.empty() ? "decoded, crop and tensor equal" : "differs at: " + wrong};
}

double largest_absolute(const Logits& logits) {
    double largest = 0;
    for (const float logit : logits) {
        largest = std::max(largest, std::abs(static_cast<double>(logit)));
    }
    return largest;
}

/// The largest absolute difference. Infinity when anything is not finite, so that no comparison
/// passes by NaN.
double absolute_difference(const Logits& got, const Logits& expected) {
    double difference = 0;
    for (std::size_t index = 0; index < got.size(); ++index) {
        const double each = std::abs(static_cast<double>(got[index]) - expected[index]);
        if (!std::isfinite(each)) {
            return std::numeric_limits<double>::infinity();
        }
        difference = std::max(difference, each);
    }
    return difference;
}

/// The same, relative to the largest absolute expected logit.
double relative_difference(const Logits& got, const Logits& expected) {
    const double difference = absolute_difference(got, expected);
    const double scale = largest_absolute(expected);
    if (!std::isfinite(difference) || scale == 0) {
        return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
    }
    return difference / scale;
}

/// The cosine of two vectors of logits; -1 when it is not defined.
double cosine_of(const Logits& one, const Logits& other) {
    double product = 0;
    double square = 0;
    double other_square = 0;
    for (std::size_t index = 0; index < one.size(); ++index) {
        product += static_cast<double>(one[index]) * other[index];
        square += static_cast<double>(one[index]) * one[index];
        other_square += static_cast<double>(other[index]) * other[index];
    }
    const double cosine = product / (std::sqrt(square) * std::sqrt(other_square));
    return std::isfinite(cosine) ? cosine : -1;
}

/// The Euclidean distance over the length of what was expected; infinity when it is not defined.
double distance_of(const Logits& got, const Logits& expected) {
    double square = 0;
    double length = 0;
    for (std::size_t index = 0; index < got.size(); ++index) {
        const double each = static_cast<double>(got[index]) - expected[index];
        square += each * each;
        length += static_cast<double>(expected[index]) * expected[index];
    }
    if (!std::isfinite(square) || length == 0) {
        return square == 0 ? 0 : std::numeric_limits<double>::infinity();
    }
    return std::sqrt(square / length);
}

/// The largest distance of vectors of one length whose cosine is the least allowed: a cosine
/// alone does not see length.
double largest_distance(double least) {
    return std::sqrt(2 - 2 * least);
}

/// The most probable classes, in ascending order of their number.
std::vector<std::size_t> first_classes(const Logits& logits, std::size_t count) {
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto rank = [&logits](std::size_t index) {  // NaN has no order of its own
        return std::isnan(logits[index]) ? -std::numeric_limits<float>::infinity() : logits[index];
    };
    std::stable_sort(order.begin(), order.end(), [&rank](std::size_t one, std::size_t other) {
        return rank(one) > rank(other);
    });
    order.resize(std::min(count, order.size()));
    std::sort(order.begin(), order.end());
    return order;
}

std::size_t first_largest(const Logits& logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
}

/// The five most probable classes on this device, by name. True when the logits that ship put
/// classes there whose logits differ by no more than the tolerance allows.
Claim check_names(const std::string& claim, const Logits& got, const Logits& expected,
                  const std::vector<Label>& labels, double allowed) {
    const auto here = best(got.data(), labels, top_k);
    const auto there = best(expected.data(), labels, top_k);
    bool is_true = true;
    std::string names;
    for (std::size_t rank = 0; rank < here.size(); ++rank) {
        const float mine = expected[static_cast<std::size_t>(here[rank].index)];
        const float theirs = expected[static_cast<std::size_t>(there[rank].index)];
        is_true = is_true && std::abs(static_cast<double>(mine) - theirs) <= 2 * allowed;
        names.append(names.empty() ? "" : ", ").append(here[rank].label->name);
    }
    return {claim, is_true ? Status::is_true : Status::is_false, names};
}

/// How near logits came to those that they are held against, and how near they have to.
std::string told_agreement(const Tolerance& tolerance, double worst, double cosine) {
    return tolerance.cosine
               ? "cosine " + exponent("%.6f", cosine) + ", at least " +
                     exponent("%g", *tolerance.cosine) + " needed"
               : "largest difference " + exponent("%.1e", worst) + " of the largest logit, " +
                     exponent("%.0e", tolerance.max_rel_diff) + " allowed";
}

/// Compares a target's logits on the goldens with those that ship.
void check_target(const Bundle& bundle, const Target& target, const std::vector<float>& tensors,
                  const std::vector<Label>& labels, const EngineOptions& options,
                  std::vector<Claim>& claims) {
    const Manifest& manifest = bundle.manifest();
    const auto engine = open_engine(bundle, target, options, bundle.begin("model.ts"));
    double worst = 0;
    double cosine = 1;
    double least_scale = std::numeric_limits<double>::infinity();
    double largest_scale = 0;
    std::int64_t flipped = 0;
    std::int64_t thin = 0;
    std::vector<Claim> names;
    const std::size_t size = tensors.size() / manifest.goldens.size();
    for (std::size_t index = 0; index < manifest.goldens.size(); ++index) {
        const Golden& golden = manifest.goldens[index];
        const Logits got = run(*engine, tensors.data() + index * size, 1, manifest);
        const Logits expected = golden_logits(bundle, golden);
        worst = std::max(worst, relative_difference(got, expected));
        cosine = std::min(cosine, cosine_of(got, expected));
        const double scale = largest_absolute(expected);
        least_scale = std::min(least_scale, scale);
        largest_scale = std::max(largest_scale, scale);
        const double allowed = target.tolerance.max_rel_diff * scale;
        const bool is_other = static_cast<std::int64_t>(first_largest(got)) != golden.top1;
        const bool is_thin = golden.margin <= 2 * allowed;
        thin += is_thin ? 1 : 0;
        flipped += is_other && !is_thin ? 1 : 0;
        names.push_back(check_names(numbered(index) + " top-5 in " + target.id, got, expected,
                                    labels, allowed));
    }
    const Agreement& agreement = target.agreement;
    const auto goldens = static_cast<std::int64_t>(manifest.goldens.size());
    const double tolerance = target.tolerance.max_rel_diff;
    const auto& least = target.tolerance.cosine;
    const bool is_near =
        least ? cosine >= *least && *least >= least_cosine && tolerance <= max_reduced_tolerance
              : worst <= tolerance && tolerance <= max_tolerance;
    // The largest difference has to be what it is said to be of the largest logit.
    const double low = agreement.max_rel_diff * least_scale * (1 - rounding);
    const double high = agreement.max_rel_diff * largest_scale * (1 + rounding);
    bool is_same = true;
    for (std::size_t index = 0; index < manifest.goldens.size(); ++index) {
        is_same = is_same && index < agreement.logits_sha256.size() &&
                  agreement.logits_sha256[index] == manifest.goldens[index].logits_sha256;
    }
    const bool is_possible = (agreement.max_abs_diff > 0 || is_same) &&
                             agreement.images == goldens && agreement.top1_equal <= goldens &&
                             agreement.top1_equal >= goldens - thin &&
                             agreement.max_rel_diff <= tolerance && low <= agreement.max_abs_diff &&
                             agreement.max_abs_diff <= high;
    const bool is_true = is_near && flipped == 0 && is_possible;
    claims.push_back({"goldens in " + target.id, is_true ? Status::is_true : Status::is_false,
                      told_agreement(target.tolerance, worst, cosine)});
    claims.insert(claims.end(), names.begin(), names.end());
}

/// Numbers from -1 to 1, the same on every machine: those of the C++ standard's mt19937.
void append_seeded(std::vector<float>& tensors, std::size_t count) {
    std::mt19937 generator(seed);
    for (; count > 0; --count) {
        tensors.push_back(static_cast<float>(static_cast<double>(generator()) / 2147483648.0 - 1));
    }
}

/// The row of a target's or reference's logits for each tensor, run in batches; a last batch that
/// is short is padded with the first tensors.
std::vector<Logits> run_all(const Engine& engine, const std::vector<float>& tensors,
                            std::size_t count, std::int64_t batch_size, const Manifest& manifest) {
    const auto batch = static_cast<std::size_t>(batch_size);
    const std::size_t size = tensors.size() / count;
    const auto classes = static_cast<std::ptrdiff_t>(manifest.model.classes);
    std::vector<Logits> rows;
    std::vector<float> input(batch * size);
    for (std::size_t begin = 0; begin < count; begin += batch) {
        for (std::size_t slot = 0; slot < batch; ++slot) {
            const float* tensor = tensors.data() + (begin + slot) % count * size;
            std::copy(tensor, tensor + size, input.data() + slot * size);
        }
        const Logits logits = run(engine, input.data(), batch_size, manifest);
        auto row = logits.begin();
        for (std::size_t slot = 0; slot < batch && begin + slot < count; ++slot, row += classes) {
            rows.emplace_back(row, row + classes);
        }
    }
    return rows;
}

/// Compares a target with TorchScript, which is run on the seeded tensors only.
///
/// \param tensors Those of the goldens; `expected` their logits.
/// \param model What is checked of `model.ts` while its engine is made.
Comparison compare_on(const Bundle& bundle, const Target& chosen, std::int64_t batch_size,
                      const EngineOptions& options, std::vector<float> tensors,
                      std::vector<Logits> expected, std::unique_ptr<Reading> model,
                      const Progress& progress) {
    const Manifest& manifest = bundle.manifest();
    const auto torchscript =
        std::find_if(manifest.targets.begin(), manifest.targets.end(),
                     [](const Target& each) { return each.backend == "torchscript"; });
    const std::size_t goldens = manifest.goldens.size();
    const std::size_t count =
        goldens + static_cast<std::size_t>(std::max(least_seeded, batch_size));
    const std::size_t size = tensors.size() / goldens;
    append_seeded(tensors, (count - goldens) * size);

    progress("TorchScript");
    std::unique_ptr<Engine> engine = open_engine(bundle, *torchscript, options, std::move(model));
    const std::vector<float> seeded(tensors.begin() + static_cast<std::ptrdiff_t>(goldens * size),
                                    tensors.end());
    for (auto& row : run_all(*engine, seeded, count - goldens, 1, manifest)) {
        expected.push_back(std::move(row));
    }
    progress(chosen.id);
    if (chosen.backend != torchscript->backend) {
        engine.reset();  // one set of weights at a time
        engine = open_engine(bundle, chosen, options, bundle.begin("model.ts"));
    }
    const std::vector<Logits> got = run_all(*engine, tensors, count, batch_size, manifest);
    Comparison result;
    result.target = chosen.id;
    result.is_by_double = is_by_double(chosen);
    result.batch_size = batch_size;
    result.images = static_cast<std::int64_t>(count);
    result.tolerance = chosen.tolerance;
    for (std::size_t index = 0; index < count; ++index) {
        result.difference =
            std::max(result.difference, relative_difference(got[index], expected[index]));
        result.cosine = std::min(result.cosine, cosine_of(got[index], expected[index]));
        result.distance = std::max(result.distance, distance_of(got[index], expected[index]));
        result.absolute_difference =
            std::max(result.absolute_difference, absolute_difference(got[index], expected[index]));
        for (const auto& [count_of, counted] :
             {std::pair(std::size_t{1}, &result.top1), std::pair(top_k, &result.top5)}) {
            const bool is_alike =
                first_classes(got[index], count_of) == first_classes(expected[index], count_of);
            *counted += is_alike ? 1 : 0;
        }
        const std::size_t first = first_largest(expected[index]);
        const std::size_t here = first_largest(got[index]);
        const double margin = static_cast<double>(expected[index][first]) - expected[index][here];
        const double allowed = chosen.tolerance.max_rel_diff * largest_absolute(expected[index]);
        result.flipped += margin > 2 * allowed ? 1 : 0;
    }
    return result;
}

/// A device's target beside the source model, on more images than the goldens.
Claim check_comparison(const Bundle& bundle, const Target& target,
                       const std::vector<float>& tensors, const EngineOptions& options) {
    std::vector<Logits> expected;
    for (const auto& golden : bundle.manifest().goldens) {
        expected.push_back(golden_logits(bundle, golden));
    }
    const Comparison found =
        compare_on(bundle, target, target.batch_sizes[0], options, tensors, std::move(expected),
                   bundle.begin("model.ts"), [](const std::string& /*step*/) {});
    return {"comparison in " + target.id, found.same() ? Status::is_true : Status::is_false,
            found.told()};
}

}  // namespace

std::string_view text(Status status) {
    return status == Status::is_true    ? "true"
           : status == Status::is_false ? "false"
                                        : "not checked";
}

std::vector<Claim> verify(const Bundle& bundle, const std::string& target,
                          const EngineOptions& options, const Progress& progress) {
    check_options(options);
    const Manifest& manifest = bundle.manifest();
    const Target* only = target == "all" ? nullptr : &choose_target(manifest, target);
    std::vector<const Target*> wanted;
    for (const auto& each : manifest.targets) {
        if (only == nullptr || only == &each) {
            wanted.push_back(&each);
        }
    }
    check_device_of(wanted, options);
    progress("files");
    std::vector<Claim> claims = {check_files(bundle)};
    const std::vector<Label> labels = read_labels(bundle);
    claims.push_back(check_parameters(manifest));
    progress("preprocessing of the goldens");
    std::vector<float> tensors;
    for (std::size_t index = 0; index < manifest.goldens.size(); ++index) {
        claims.push_back(check_stages(bundle, index, tensors));
    }
    std::vector<Claim> others;
    for (const auto& each : manifest.targets) {
        const std::string claim = "goldens in " + each.id;
        if (only != nullptr && only != &each) {
            others.push_back({claim, Status::not_checked, "another target was asked for"});
            continue;
        }
        progress(claim);
        if (is_by_double(each)) {
            claims.push_back({claim, Status::is_false, std::string(by_double)});
        } else if (const auto missing = missing_for(each)) {
            claims.push_back({claim, Status::not_checked, missing->got});
        } else {
            check_target(bundle, each, tensors, labels, options, claims);
            if (is_on_device(each)) {
                claims.push_back(check_comparison(bundle, each, tensors, options));
            }
        }
    }
    claims.insert(claims.end(), others.begin(), others.end());
    const auto append_records = [&claims](const std::string& kind, std::size_t count) {
        for (std::size_t index = 0; index < count; ++index) {
            claims.push_back(
                {kind + "[" + std::to_string(index) + "]", Status::not_checked, "not re-measured"});
        }
    };
    append_records("accuracy", manifest.accuracy.size());
    append_records("performance", manifest.performance.size());
    append_records("gates", manifest.gates.size());
    append_records("levels", manifest.levels.size());
    const bool has_figures =
        !manifest.expected.accuracy.empty() || !manifest.expected.speed.empty();
    for (const auto& [claim, reason] : unseen) {
        if (has_figures || claim != published) {
            claims.push_back({std::string(claim), Status::not_checked, std::string(reason)});
        }
    }
    return claims;
}

bool Comparison::same() const {
    const double most = tolerance.cosine ? max_reduced_tolerance : max_tolerance;
    const bool is_near = difference <= tolerance.max_rel_diff && tolerance.max_rel_diff <= most;
    const bool is_alike =
        !tolerance.cosine || (cosine >= *tolerance.cosine && *tolerance.cosine >= least_cosine &&
                              distance <= largest_distance(*tolerance.cosine));
    return is_near && is_alike && flipped == 0;
}

std::string Comparison::told() const {
    std::string least;
    std::string most;
    if (tolerance.cosine) {
        least = " (at least " + exponent("%g", *tolerance.cosine) + ")";
        most = " (at most " + exponent("%.1e", largest_distance(*tolerance.cosine)) + ")";
    }
    return "cosine " + exponent("%.6f", cosine) + least + ", relative Euclidean distance " +
           exponent("%.1e", distance) + most + ", largest difference " +
           exponent("%.1e", absolute_difference) + ", " + exponent("%.1e", difference) +
           " of the largest logit (at most " + exponent("%.0e", tolerance.max_rel_diff) +
           "), top-1 " + std::to_string(top1) + " and top-5 " + std::to_string(top5) + " of " +
           std::to_string(images) + " images alike" +
           (flipped > 0 ? ", " + std::to_string(flipped) + " of them beyond the tolerance" : "");
}

bool holds(const std::vector<Claim>& claims) {
    return std::none_of(claims.begin(), claims.end(),
                        [](const Claim& claim) { return claim.status == Status::is_false; });
}

void check_batch(std::int64_t batch_size) {
    if (batch_size < 1 || batch_size > max_batch) {
        throw Error(Code::E_ARGUMENT, "batch")
            .expected("1 to " + std::to_string(max_batch))
            .got(batch_size);
    }
}

Comparison compare(const Bundle& bundle, const std::string& target, std::int64_t batch_size,
                   const EngineOptions& options, const Progress& progress) {
    check_options(options);
    check_batch(batch_size);
    const Manifest& manifest = bundle.manifest();
    progress("files");
    auto model = bundle.begin("model.ts");
    const Target& chosen = choose_target(manifest, target);
    check_device_of({&chosen}, options);
    bundle.check({"model.ts"});
    static_cast<void>(read_labels(bundle));

    std::vector<float> tensors;
    std::vector<Logits> expected;
    for (std::size_t index = 0; index < manifest.goldens.size(); ++index) {
        const Claim stages = check_stages(bundle, index, tensors);
        if (stages.status != Status::is_true) {
            throw Error(Code::E_BUNDLE_GOLDEN, bundle.where(manifest.goldens[index].source))
                .got(stages.detail);
        }
        expected.push_back(golden_logits(bundle, manifest.goldens[index]));
    }
    return compare_on(bundle, chosen, batch_size, options, std::move(tensors), std::move(expected),
                      std::move(model), progress);
}

}  // namespace vitaie::detail

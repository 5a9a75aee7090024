#include "commands.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "bundle.hpp"
#include "digest.hpp"
#include "model.hpp"
#include "npy.hpp"
#include "output.hpp"
#include "verify.hpp"

namespace vitaie::edge {

namespace {

using namespace detail;

std::string grouped(std::string digits, std::size_t end) {
    for (std::size_t place = end; place > 3;) {
        place -= 3;
        digits.insert(place, ",");
    }
    return digits;
}

/// "1,234.5"
std::string grouped(double number) {
    const std::string digits = formatted("%.1f", number);
    return grouped(digits, digits.find('.'));
}

/// "1,234"
std::string grouped(std::int64_t number) {
    const std::string digits = std::to_string(number);
    return grouped(digits, digits.size());
}

std::string listed(const std::array<double, 3>& numbers) {
    return "[" + shortest(numbers[0]) + ", " + shortest(numbers[1]) + ", " + shortest(numbers[2]) +
           "]";
}

std::string batches(const Target& target) {
    std::string text;
    for (const std::int64_t size : target.batch_sizes) {
        text.append(text.empty() ? "" : ", ").append(std::to_string(size));
    }
    return text.empty() ? "any" : text;
}

/// Which operators of a device's target the device does not run, and the share of those it does.
std::string outside_of(const Target& target) {
    std::string names;
    for (const auto& name : target.operators_outside) {
        names.append(names.empty() ? "" : ", ").append(name);
    }
    const auto share = placement_of(target);
    return "placement" +
           (share ? " of " + formatted("%.1f", 100 * *share) + "% of the operators" : "") +
           " on the device; outside it are " + names;
}

const Target* target_of(const Manifest& manifest, const std::string& digest) {
    const auto found = std::find_if(manifest.targets.begin(), manifest.targets.end(),
                                    [&](const Target& t) { return t.target_digest == digest; });
    return found == manifest.targets.end() ? nullptr : &*found;
}

/// The id of the target that a record was taken on.
std::string id_of(const Manifest& manifest, const std::string& digest) {
    const Target* target = target_of(manifest, digest);
    return target == nullptr ? "" : target->id;
}

/// What is said at the end of whatever was measured on a target of the double.
std::string of_double(const Manifest& manifest, const std::string& digest) {
    const Target* target = target_of(manifest, digest);
    return target != nullptr && is_by_double(*target) ? ", " + std::string(by_double) : "";
}

std::string told(const Manifest& manifest, const AccuracyRecord& record) {
    std::string line = "top-1 " + formatted("%.3f", record.top1.percent) + "%, " +
                       grouped(record.top1.count) + " of " + grouped(record.dataset.images) +
                       " images of " + record.dataset.name;
    if (record.source_top1) {
        line += ", the source " + formatted("%.3f", record.source_top1->percent) + "%";
    }
    if (record.dataset.missing != 0) {
        line += ", " + std::to_string(record.dataset.missing) + " missing";
    }
    return line + " (" + id_of(manifest, record.target_digest) + ", " + record.created + ")" +
           of_double(manifest, record.target_digest);
}

std::string told(const Manifest& manifest, const PerformanceRecord& record) {
    const std::string invalid =
        record.verdict == "VALID" ? "" : " INVALID: " + record.reasons.front() + ";";
    return formatted("%.2f", record.fps) + " images a second:" + invalid + " " + record.boundary +
           ", " + record.scenario + ", batch " + std::to_string(record.batch_size) + ", " +
           record.protocol + ", " + record.processor + " (" +
           id_of(manifest, record.target_digest) + ", " + record.created + ")" +
           of_double(manifest, record.target_digest);
}

std::string told(const LevelRecord& level) {
    std::string line = "level " + std::to_string(level.optim_level) + ": " +
                       formatted("%.2f", level.fps) + " images a second";
    line += level.verdict == "INVALID" ? " INVALID" : "";
    for (const auto& gate : level.gates) {
        line += ", " + gate.require + " " + gate.verdict;
    }
    return line + (level.chosen ? ", ships" : "");
}

/// What a bundle says of its measurements, one line each.
std::vector<std::string> measured(const Manifest& manifest) {
    std::vector<std::string> lines;
    for (const auto& record : manifest.accuracy) {
        lines.push_back(told(manifest, record));
    }
    for (const auto& record : manifest.performance) {
        lines.push_back(told(manifest, record));
    }
    for (const auto& gate : manifest.gates) {
        lines.push_back(gate.verdict + ": " + gate.require + " of " +
                        id_of(manifest, gate.target_digest) + ": " + gate.reason +
                        of_double(manifest, gate.target_digest));
    }
    std::string of_levels;
    for (const auto& level : manifest.levels) {
        of_levels += level.chosen ? of_double(manifest, level.target_digest) : "";
    }
    for (const auto& level : manifest.levels) {
        lines.push_back(told(level) + of_levels);
    }
    if (lines.empty()) {
        lines.emplace_back("nothing: no accuracy and no speed is claimed");
    }
    return lines;
}

using Rows = std::vector<std::pair<std::string, std::string>>;

/// What a bundle is and claims, on one screen.
Rows describe(const Bundle& bundle) {
    const Manifest& manifest = bundle.manifest();
    const Architecture& model = manifest.model;
    const Preprocess& spec = manifest.preprocess;
    double size = 0;
    for (const auto& artifact : manifest.artifacts) {
        size += static_cast<double>(artifact.size);
    }
    Rows rows = {
        {"bundle", manifest.name + " " + manifest.version + ", " + grouped(size / 1e6) + " MB, " +
                       bundle.folder()},
        {"content", manifest.content_digest},
        {"made", manifest.toolchain.created + " from " + manifest.source.file},
        {"source", manifest.source.sha256},
        {"model", std::to_string(model.image_size) + " px in patches of " +
                      std::to_string(model.patch_size) + ", " + std::to_string(model.depth) +
                      " blocks of " + std::to_string(model.width) + ", " +
                      std::to_string(model.classes) + " classes, " +
                      formatted("%.1f", static_cast<double>(model.parameters) / 1e6) +
                      " M parameters, " + formatted("%.2f", model.gflop) + " GFLOP"},
        {"preprocess", spec.profile + ": " + spec.resize.mode + " " +
                           std::to_string(spec.resize.size) + " " + spec.resize.interpolation +
                           ", crop " + std::to_string(spec.crop.size) + ", mean " +
                           listed(spec.mean) + ", std " + listed(spec.std)},
    };
    for (const auto& target : manifest.targets) {
        const std::string warning = is_by_double(target) ? ", " + std::string(by_double) : "";
        rows.emplace_back("target", target.id + ": level " + std::to_string(target.optim_level) +
                                        ", batch " + batches(target) + ", " +
                                        formatted("%.1e", target.agreement.max_rel_diff) +
                                        " from the source on " +
                                        std::to_string(target.agreement.images) + " goldens" +
                                        warning);
        if (!target.operators_outside.empty()) {
            rows.emplace_back("", "  " + outside_of(target));
        }
    }
    for (const auto& golden : manifest.goldens) {
        rows.emplace_back("golden", golden.source + ": class " + std::to_string(golden.top1) +
                                        ", margin " + formatted("%.3f", golden.margin));
    }
    for (const auto& line : measured(manifest)) {
        rows.emplace_back("measured", line);
    }
    for (const auto& figure : manifest.expected.accuracy) {
        const std::string top5 = figure.top5 ? ", top-5 " + shortest(*figure.top5) : "";
        rows.emplace_back("published", "for " + manifest.source.variant +
                                           ", not measured here: top-1 " + shortest(figure.top1) +
                                           top5 + " (" + figure.source + ")");
    }
    return rows;
}

void print_claims(const std::vector<Claim>& claims) {
    std::string text;
    std::size_t unchecked = 0;
    for (const auto& claim : claims) {
        std::string status(detail::text(claim.status));
        status.resize(12, ' ');
        text += status + printable(claim.claim) + ": " + printable(claim.detail) + "\n";
        unchecked += claim.status == Status::not_checked ? 1 : 0;
    }
    text += holds(claims) ? "TRUE" : "FALSE";
    text += unchecked == 0 ? "" : ", " + std::to_string(unchecked) + " not checked";
    print_line(text);
}

void print_claims_json(const Bundle& bundle, const std::vector<Claim>& claims) {
    Json document;
    document["path"] = utf8(bundle.folder());
    document["name"] = bundle.manifest().name;
    document["version"] = bundle.manifest().version;
    document["content_digest"] = bundle.manifest().content_digest;
    document["holds"] = holds(claims);
    document["claims"] = Json::array();
    for (const auto& claim : claims) {
        Json row;
        row["claim"] = claim.claim;
        row["status"] = detail::text(claim.status);
        row["detail"] = utf8(claim.detail);
        document["claims"].push_back(std::move(row));
    }
    print_json(document);
}

Json predictions_json(const std::vector<Prediction>& predictions) {
    Json rows = Json::array();
    for (const auto& each : predictions) {
        Json row;
        row["index"] = each.index;
        row["id"] = each.label->id;
        row["label"] = each.label->name;
        row["probability"] = each.probability;
        rows.push_back(std::move(row));
    }
    return rows;
}

void print_predictions(const std::string& image, const std::vector<Prediction>& predictions) {
    std::string text = printable(image) + "\n";
    for (const auto& each : predictions) {
        text += "  " + formatted("%6.2f", 100 * each.probability) + "%  " +
                printable(each.label->id + "  " + each.label->name) + "\n";
    }
    print(text);
}

}  // namespace

int info(const Options& options) {
    const Bundle bundle = Bundle::open(options.bundle);
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["manifest"] = Json::parse(bundle.manifest_text());
        print_json(document);
    } else {
        std::string text;
        for (const auto& [key, value] : describe(bundle)) {
            text += key + std::string(11 - key.size(), ' ') + printable(value, 400) + "\n";
        }
        print(text);
    }
    suggest(options.quiet, {"verify", bundle.folder()});
    return 0;
}

int verify(const Options& options) {
    check_options(options.engine);
    const Bundle bundle = Bundle::open(options.bundle);
    const std::size_t targets = options.target == "all" ? bundle.manifest().targets.size() : 1;
    Steps steps(2 + targets, options.quiet);
    const auto claims = detail::verify(bundle, options.target, options.engine,
                                       [&](const auto& step) { steps(step); });
    if (options.json) {
        print_claims_json(bundle, claims);
    } else {
        print_claims(claims);
    }
    if (holds(claims)) {
        suggest(options.quiet, {"info", bundle.folder()});
        return 0;
    }
    const auto wrong = std::find_if(claims.begin(), claims.end(), [](const Claim& claim) {
        return claim.status == Status::is_false;
    });
    say(Error(Code::E_CLAIM_FALSE, bundle.folder())
            .field(wrong->claim)
            .got(wrong->detail)
            .hint("Do not use this bundle for what it claims.")
            .line(),
        false);
    return 1;
}

int classify(const Options& options, const ClassifyOptions& chosen) {
    check_options(options.engine);
    if (chosen.top_k < 1) {
        throw Error(Code::E_ARGUMENT, "top_k").expected("at least 1").got(chosen.top_k);
    }
    const Bundle bundle = Bundle::open(options.bundle);
    const Model model(bundle, options.target, options.engine);
    if (options.target == "auto") {
        say(model.manifest().name + " " + model.manifest().version + ": target " +
                model.target().id,
            options.quiet);
    }
    Steps steps(chosen.images.size(), options.quiet || chosen.images.size() == 1);
    Json rows = Json::array();
    std::size_t index = 0;
    const std::vector<Input> images(chosen.images.begin(), chosen.images.end());
    const auto give = [&](const std::vector<Prediction>& predictions) {
        const std::string& image = chosen.images[index++];
        steps(image);
        if (options.json) {
            Json row;
            row["image"] = utf8(image);
            row["predictions"] = predictions_json(predictions);
            rows.push_back(std::move(row));
        } else {
            if (index == 1 && is_by_double(model.target())) {
                print_line(model.target().id + ": " + std::string(by_double));
            }
            print_predictions(image, predictions);
        }
    };
    model.classify_all(images, static_cast<std::size_t>(chosen.top_k), 1, give);
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["version"] = model.manifest().version;
        document["target"] = model.target().id;
        document["double"] = is_by_double(model.target());
        document["images"] = std::move(rows);
        print_json(document);
    }
    suggest(options.quiet,
            {"preprocess", bundle.folder(), chosen.images.front(), "-o", "tensor.npy"});
    return 0;
}

int preprocess(const Options& options, const PreprocessOptions& chosen) {
    if (std::filesystem::path(chosen.output).extension() != ".npy") {
        throw Error(Code::E_ARGUMENT, chosen.output).expected("a name that ends in .npy");
    }
    check_output(chosen.output);
    const Bundle bundle = Bundle::open(options.bundle);
    const auto side = static_cast<std::size_t>(bundle.manifest().preprocess.crop.size);
    std::vector<float> tensor(3 * side * side);
    preprocess_input(chosen.image, bundle.manifest().preprocess, tensor.data());
    const std::string_view numbers(reinterpret_cast<const char*>(tensor.data()),
                                   sizeof(float) * tensor.size());
    write_output(chosen.output, npy_header({3, side, side}).append(numbers));
    const std::string digest = sha256(numbers);
    if (options.json) {
        Json document;
        document["output"] = utf8(chosen.output);
        document["dtype"] = "float32";
        document["shape"] = {3, side, side};
        document["sha256"] = digest;
        print_json(document);
    } else {
        const std::string sides = std::to_string(side);
        print_line(printable(chosen.output) + ": float32 [3, " + sides + ", " + sides +
                   "], sha256 " + digest);
    }
    suggest(options.quiet, {"classify", bundle.folder(), chosen.image});
    return 0;
}

int check(const Options& options, std::int64_t batch_size) {
    check_options(options.engine);
    check_batch(batch_size);
    const Bundle bundle = Bundle::open(options.bundle);
    Steps steps(3, options.quiet);
    const Comparison found = compare(bundle, options.target, batch_size, options.engine,
                                     [&](const auto& step) { steps(step); });
    const bool is_ascend = found.target.rfind("ascend", 0) == 0;
    const std::string name = found.is_by_double ? "the tests' double's"
                             : is_ascend        ? "AIE"
                                                : found.target;
    const std::string message =
        found.same() ? "[SUCCESS] " + name + " inference result is the same as JIT!"
                     : "[FAILURE] " + name + " inference result is not the same as JIT!";
    const std::string detail =
        found.told() + (found.is_by_double ? ", " + std::string(by_double) : "");
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["version"] = bundle.manifest().version;
        document["target"] = found.target;
        document["batch_size"] = found.batch_size;
        document["images"] = found.images;
        document["double"] = found.is_by_double;
        document["difference"] = found.difference;
        document["tolerance"] = found.tolerance.max_rel_diff;
        document["max_abs_diff"] = found.absolute_difference;
        document["distance"] = found.distance;
        document["top1"] = found.top1;
        document["top5"] = found.top5;
        document["cosine"] = found.cosine;
        document["least_cosine"] = found.tolerance.cosine ? Json(*found.tolerance.cosine) : Json();
        document["same"] = found.same();
        document["message"] = message;
        print_json(document);
    } else {
        print_line(found.target + ": " + std::to_string(found.images) + " images in batches of " +
                   std::to_string(found.batch_size) + ", " + detail);
        print_line(message);
    }
    if (found.same()) {
        suggest(options.quiet, {"verify", bundle.folder()});
        return 0;
    }
    say(Error(Code::E_CLAIM_FALSE, bundle.folder())
            .field(found.target)
            .got(detail)
            .hint("Do not use this target here.")
            .line(),
        false);
    return 1;
}

}  // namespace vitaie::edge

#include "manifest.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "checks.hpp"
#include "digest.hpp"
#include "error.hpp"
#include "fields.hpp"
#include "json.hpp"

namespace vitaie::detail {

namespace {

std::string read_text(const Field& field) {
    return field.text();
}
std::string read_sha256(const Field& field) {
    return field.sha256();
}
std::string read_path(const Field& field) {
    return field.path();
}
std::int64_t read_positive(const Field& field) {
    return field.positive();
}

std::map<std::string, std::string> read_texts(const Field& field) {
    std::map<std::string, std::string> texts;
    field.entries([&](const std::string& key, const Field& value) { texts[key] = value.text(); });
    return texts;
}

Source read_source(const Field& field) {
    Source source;
    field.object([&](Members& members) {
        source.file = members["file"].text();
        source.size = members["size"].positive();
        source.sha256 = members["sha256"].sha256();
        source.layout = members["layout"].word({"augreg-npz"});
        source.variant = members["variant"].name();
        source.card_sha256 = members["card_sha256"].sha256();
    });
    return source;
}

Architecture read_architecture(const Field& field) {
    Architecture model;
    field.object([&](Members& members) {
        model.architecture = members["architecture"].text();
        model.timm_tag = members["timm_tag"].text();
        model.image_size = members["image_size"].positive();
        model.patch_size = members["patch_size"].positive();
        model.width = members["width"].positive();
        model.depth = members["depth"].positive();
        model.heads = members["heads"].positive();
        model.mlp_dim = members["mlp_dim"].positive();
        model.classes = members["classes"].positive();
        model.parameters = members["parameters"].positive();
        model.gflop = members["gflop"].positive_real();
    });
    return model;
}

std::int64_t read_dimension(const Field& field) {
    const bool is_text = field.value() != nullptr && field.value()->as<std::string>() != nullptr;
    if (is_text && field.word({"batch"}) == "batch") {
        return batch_dimension;
    }
    return is_text ? 0 : field.positive();
}

Tensor read_tensor(const Field& field) {
    Tensor tensor;
    field.object([&](Members& members) {
        tensor.name = members["name"].label();
        tensor.dtype = members["dtype"].word({"float32"});
        tensor.shape = members["shape"].elements(read_dimension);
    });
    return tensor;
}

Resize read_resize(const Field& field) {
    Resize resize;
    field.object([&](Members& members) {
        resize.mode = members["mode"].word({"shorter_side", "square"});
        resize.size = members["size"].positive();
        resize.interpolation = members["interpolation"].word({"bicubic"});
        resize.pass_order = members["pass_order"].word({"horizontal_first"});
    });
    return resize;
}

Crop read_crop(const Field& field) {
    Crop crop;
    field.object([&](Members& members) {
        crop.mode = members["mode"].word({"center"});
        crop.size = members["size"].positive();
    });
    return crop;
}

Preprocess read_preprocess(const Field& field) {
    Preprocess preprocess;
    field.object([&](Members& members) {
        preprocess.profile = members["profile"].word({"timm", "modelzoo"});
        preprocess.color = members["color"].word({"rgb"});
        preprocess.max_pixels = members["max_pixels"].integer(max_pixels, max_pixels);
        preprocess.resize = read_resize(members["resize"]);
        preprocess.crop = read_crop(members["crop"]);
        preprocess.scale = members["scale"].integer(255, 255);
        preprocess.mean =
            members["mean"].exactly<3>([](const Field& value) { return value.mean(); });
        preprocess.std =
            members["std"].exactly<3>([](const Field& value) { return value.deviation(); });
    });
    return preprocess;
}

Artifact read_artifact(const Field& field) {
    Artifact artifact;
    field.object([&](Members& members) {
        artifact.path = members["path"].path();
        artifact.role =
            members["role"].word({"torchscript", "onnx", "labels", "golden_source", "golden_crop",
                                  "golden_logits", "target", "measurement"});
        artifact.size = members["size"].count();
        artifact.sha256 = members["sha256"].sha256();
        artifact.chunks = members["chunks"].elements(read_sha256);
    });
    return artifact;
}

Weight read_weight(const Field& field) {
    static constexpr std::size_t max_dimensions = 8;
    Weight weight;
    field.object([&](Members& members) {
        weight.name = members["name"].label();
        weight.dtype = members["dtype"].word({"float32"});
        weight.shape = members["shape"].elements(read_positive, 0, max_dimensions);
        weight.offset = members["offset"].count();
        weight.length = members["length"].positive();
    });
    return weight;
}

double read_bound(const Field& field) {
    return field.bound();
}

Tolerance read_tolerance(const Field& field) {
    Tolerance tolerance;
    field.object([&](Members& members) {
        tolerance.max_rel_diff = members["max_rel_diff"].bound();
        tolerance.cosine = members["cosine"].unless_null(read_bound);
    });
    return tolerance;
}

Agreement read_agreement(const Field& field) {
    Agreement agreement;
    field.object([&](Members& members) {
        agreement.images = members["images"].positive();
        agreement.max_abs_diff = members["max_abs_diff"].measure();
        agreement.max_rel_diff = members["max_rel_diff"].measure();
        agreement.top1_equal = members["top1_equal"].count();
        agreement.logits_sha256 = members["logits_sha256"].elements(read_sha256);
        agreement.threads = members["threads"].integer(1, max_threads);
        agreement.processor = members["processor"].text();
        agreement.features = members["features"].elements(read_text);
        agreement.packages = read_texts(members["packages"]);
    });
    return agreement;
}

Option read_option(const Field& field) {
    if (const json::Value* value = field.value()) {
        if (const auto* boolean = value->as<bool>()) {
            return *boolean;
        }
        if (const auto* integer = value->as<std::int64_t>()) {
            return *integer;
        }
        if (const auto* text = value->as<std::string>()) {
            return *text;
        }
        field.refuse(Code::E_MANIFEST_TYPE, "a boolean, an integer or a string");
    }
    return {};
}

std::map<std::string, Option> read_options(const Field& field) {
    std::map<std::string, Option> options;
    field.entries(
        [&](const std::string& key, const Field& value) { options[key] = read_option(value); });
    return options;
}

Target read_target(const Field& field) {
    Target target;
    field.object([&](Members& members) {
        target.id = members["id"].name();
        target.backend = members["backend"].word({"onnxruntime", "torchscript", "torch_aie"});
        target.device = members["device"].word({"cpu", "ascend310p3"});
        target.precision = members["precision"].word({"fp32", "fp16", "pref_fp32", "pref_fp16"});
        target.optim_level = members["optim_level"].integer(0, 2);
        target.batch_sizes = members["batch_sizes"].elements(read_positive);
        target.files = members["files"].elements(read_path, 1);
        target.options = read_options(members["options"]);
        target.toolchain = read_texts(members["toolchain"]);
        target.operators_outside = members["operators_outside"].elements(read_text);
        target.tolerance = read_tolerance(members["tolerance"]);
        target.agreement = read_agreement(members["agreement"]);
        target.target_digest = members["target_digest"].sha256();
    });
    return target;
}

Golden read_golden(const Field& field) {
    Golden golden;
    field.object([&](Members& members) {
        golden.source = members["source"].path();
        golden.crop = members["crop"].path();
        golden.logits = members["logits"].path();
        golden.width = members["width"].positive();
        golden.height = members["height"].positive();
        golden.decoded_sha256 = members["decoded_sha256"].sha256();
        golden.crop_sha256 = members["crop_sha256"].sha256();
        golden.tensor_sha256 = members["tensor_sha256"].sha256();
        golden.logits_sha256 = members["logits_sha256"].sha256();
        golden.top1 = members["top1"].count();
        golden.top2 = members["top2"].count();
        golden.margin = members["margin"].measure();
        golden.credit = members["credit"].text();
    });
    return golden;
}

PublishedAccuracy read_published_accuracy(const Field& field) {
    PublishedAccuracy figure;
    field.object([&](Members& members) {
        figure.source = members["source"].text();
        figure.top1 = members["top1"].percent();
        figure.top5 = members["top5"].unless_null([](const Field& top5) { return top5.percent(); });
    });
    return figure;
}

PublishedSpeed read_published_speed(const Field& field) {
    PublishedSpeed figure;
    field.object([&](Members& members) {
        figure.source = members["source"].text();
        figure.device = members["device"].text();
        figure.batch_size = members["batch_size"].positive();
        figure.fps = members["fps"].positive_real();
    });
    return figure;
}

Expected read_expected(const Field& field) {
    Expected expected;
    field.object([&](Members& members) {
        expected.accuracy = members["accuracy"].elements(read_published_accuracy);
        expected.speed = members["speed"].elements(read_published_speed);
    });
    return expected;
}

Toolchain read_toolchain(const Field& field) {
    static constexpr std::size_t max_command = 65536;
    Toolchain toolchain;
    field.object([&](Members& members) {
        toolchain.created = members["created"].date();
        toolchain.machine = members["machine"].text();
        toolchain.python = members["python"].text();
        toolchain.packages = read_texts(members["packages"]);
        toolchain.packages_digest = members["packages_digest"].sha256();
        toolchain.command = members["command"].text(0, max_command);
    });
    return toolchain;
}

Manifest read_manifest(const Field& field) {
    Manifest manifest;
    field.object([&](Members& members) {
        manifest.format = members["format"].word({format_name});
        manifest.format_version = members["format_version"].integer(format_version, format_version);
        manifest.name = members["name"].name();
        manifest.version = members["version"].version();
        manifest.manifest_digest = members["manifest_digest"].sha256();
        manifest.content_digest = members["content_digest"].sha256();
        manifest.source = read_source(members["source"]);
        manifest.model = read_architecture(members["model"]);
        manifest.inputs = members["inputs"].exactly<1>(read_tensor);
        manifest.outputs = members["outputs"].exactly<1>(read_tensor);
        manifest.preprocess = read_preprocess(members["preprocess"]);
        manifest.artifacts = members["artifacts"].elements(read_artifact);
        manifest.weights = members["weights"].elements(read_weight, 1);
        manifest.targets = members["targets"].elements(read_target);
        manifest.goldens = members["goldens"].elements(read_golden, 1);
        manifest.accuracy = members["accuracy"].elements(read_accuracy);
        manifest.performance = members["performance"].elements(read_performance);
        manifest.gates = members["gates"].elements(read_gate);
        manifest.levels = members["levels"].elements(read_level);
        manifest.expected = read_expected(members["expected"]);
        manifest.toolchain = read_toolchain(members["toolchain"]);
    });
    return manifest;
}

const json::Value& required(const json::Object& document, const std::string& field,
                            const std::string& where) {
    const json::Value* value = json::find(document, field);
    if (value == nullptr) {
        throw Error(Code::E_MANIFEST_MISSING_FIELD, where).field(field);
    }
    return *value;
}

void check_format(const json::Object& document, const std::string& where) {
    const auto* name = required(document, "format", where).as<std::string>();
    const auto* version = required(document, "format_version", where).as<std::int64_t>();
    if (name == nullptr || *name != format_name) {
        throw Error(Code::E_MANIFEST_FORMAT, where).field("format").expected(format_name);
    }
    if (version == nullptr) {
        throw Error(Code::E_MANIFEST_TYPE, where).field("format_version").expected("an integer");
    }
    if (*version < 1) {
        throw Error(Code::E_MANIFEST_VALUE, where)
            .field("format_version")
            .expected("at least 1")
            .got(*version);
    }
    if (*version > format_version) {
        throw Error(Code::E_MANIFEST_NEWER_VERSION, where)
            .field("format_version")
            .expected("at most " + std::to_string(format_version))
            .got(*version)
            .hint("Install a newer vitaie.");
    }
}

void check_manifest_digest(std::string_view data, const json::Object& document,
                           const std::string& where) {
    const auto* claimed = required(document, "manifest_digest", where).as<std::string>();
    const auto actual = manifest_digest(data);
    if (!actual || claimed == nullptr || *actual != *claimed) {
        throw Error(Code::E_MANIFEST_DIGEST, where)
            .field("manifest_digest")
            .expected(actual.value_or("64 lower-case hexadecimal digits, and the name just once"))
            .got(claimed != nullptr ? *claimed : "no string")
            .hint("The manifest was changed after it was published; fetch the bundle again.");
    }
}

const json::Value& member(const json::Object& object, std::string_view key) {
    return *json::find(object, key);
}

/// Returns an object without some of its members.
json::Object without(const json::Object& object, std::initializer_list<std::string_view> keys) {
    json::Object rest;
    for (const auto& each : object) {
        if (std::find(keys.begin(), keys.end(), each.key) == keys.end()) {
            rest.push_back(each);
        }
    }
    return rest;
}

std::string target_digest(const json::Object& target, const Manifest& manifest) {
    json::Object covered;
    for (const char* key :
         {"backend", "device", "precision", "optim_level", "batch_sizes", "options"}) {
        covered.push_back({key, member(target, key)});
    }
    std::vector<std::string> paths;
    for (const auto& path : *member(target, "files").as<json::Array>()) {
        paths.push_back(*path.as<std::string>());
    }
    std::sort(paths.begin(), paths.end());
    json::Array files;
    for (const auto& path : paths) {
        files.push_back({json::Array{{path}, {manifest.artifact(path).sha256}}});
    }
    covered.push_back({"files", {std::move(files)}});
    return sha256(canonical({std::move(covered)}));
}

/// Returns the digest of what a bundle is, whenever, wherever and however well it was measured.
std::string content_digest(const json::Object& document) {
    json::Object content = without(document, {"version", "manifest_digest", "content_digest",
                                              "accuracy", "performance", "gates", "levels"});
    for (auto& [key, value] : content) {
        if (key == "toolchain") {
            value.data = without(*value.as<json::Object>(), {"created", "machine"});
        } else if (key == "targets") {
            for (auto& target : std::get<json::Array>(value.data)) {
                target.data = without(*target.as<json::Object>(), {"agreement"});
            }
        } else if (key == "artifacts") {
            auto& artifacts = std::get<json::Array>(value.data);
            const auto measured = [](const json::Value& artifact) {
                return *member(*artifact.as<json::Object>(), "role").as<std::string>() ==
                       "measurement";
            };
            artifacts.erase(std::remove_if(artifacts.begin(), artifacts.end(), measured),
                            artifacts.end());
        }
    }
    return sha256(canonical({std::move(content)}));
}

/// Sees that each level's target is the chosen one in all but its level. A device's is another
/// module at each level: those that do not ship are known by their evidence.
void check_level_digests(const json::Array& targets, const Manifest& manifest,
                         const std::string& where) {
    const auto chosen = std::find_if(manifest.levels.begin(), manifest.levels.end(),
                                     [](const LevelRecord& level) { return level.chosen; });
    if (chosen == manifest.levels.end()) {
        return;  // there is no table
    }
    const auto ships = std::find_if(
        manifest.targets.begin(), manifest.targets.end(),
        [&](const Target& target) { return target.target_digest == chosen->target_digest; });
    if (ships->device != "cpu") {
        return;
    }
    const auto place = static_cast<std::size_t>(ships - manifest.targets.begin());
    json::Object target = without(*targets[place].as<json::Object>(), {"optim_level"});
    target.push_back({"optim_level", {std::int64_t{0}}});
    for (std::size_t index = 0; index < manifest.levels.size(); ++index) {
        const LevelRecord& level = manifest.levels[index];
        target.back().value = {level.optim_level};
        const std::string actual = target_digest(target, manifest);
        if (actual != level.target_digest) {
            throw Error(Code::E_MANIFEST_TARGET_DIGEST, where)
                .field("levels[" + std::to_string(index) + "].target_digest")
                .expected(actual)
                .got(level.target_digest);
        }
    }
}

void check_digests(const json::Object& document, const Manifest& manifest,
                   const std::string& where) {
    const auto& targets = *member(document, "targets").as<json::Array>();
    for (std::size_t index = 0; index < targets.size(); ++index) {
        const std::string actual = target_digest(*targets[index].as<json::Object>(), manifest);
        const std::string& claimed = manifest.targets[index].target_digest;
        if (actual != claimed) {
            throw Error(Code::E_MANIFEST_TARGET_DIGEST, where)
                .field("targets[" + std::to_string(index) + "].target_digest")
                .expected(actual)
                .got(claimed);
        }
    }
    check_level_digests(targets, manifest, where);
    const std::string actual = content_digest(document);
    if (actual != manifest.content_digest) {
        throw Error(Code::E_MANIFEST_CONTENT_DIGEST, where)
            .field("content_digest")
            .expected(actual)
            .got(manifest.content_digest);
    }
}

}  // namespace

const Artifact& Manifest::artifact(std::string_view path) const {
    const auto found = std::find_if(artifacts.begin(), artifacts.end(),
                                    [path](const auto& each) { return each.path == path; });
    if (found == artifacts.end()) {
        throw std::logic_error("the manifest has no artifact " + std::string(path));
    }
    return *found;
}

Manifest parse_manifest(std::string_view data, const std::string& where) {
    const json::Value document = {json::parse_object(data, where, max_manifest_bytes,
                                                     {max_manifest_commas, max_manifest_brackets})};
    const auto& members = *document.as<json::Object>();
    check_format(members, where);
    check_manifest_digest(data, members, where);
    Faults faults;
    Manifest manifest = read_manifest(Field(&document, json::Place(), faults));
    faults.raise(where);
    check_structure(manifest, where);
    check_records(manifest, sha256(canonical(member(members, "preprocess"))), where);
    check_digests(members, manifest, where);
    return manifest;
}

}  // namespace vitaie::detail

#include "checks.hpp"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "digest.hpp"
#include "error.hpp"
#include "fields.hpp"

namespace vitaie::detail {

namespace {

/// Every tensor of `model.ts` begins at a multiple of this many bytes.
constexpr std::int64_t weight_alignment = 64;

/// What a CPU's target may allow its logits to differ, of the largest logit.
constexpr double max_cpu_difference = 1e-3;

/// Of the evidence of one measurement.
constexpr std::int64_t max_record_bytes = std::int64_t{1} << 28;

using Words = std::initializer_list<std::string_view>;

std::string element(std::string_view array, std::size_t index) {
    return std::string(array).append("[").append(std::to_string(index)).append("]");
}

std::string joined(Words words) {
    std::string text;
    for (const auto word : words) {
        text.append(text.empty() ? "" : " or ").append(word);
    }
    return text;
}

std::string at_most(std::int64_t number) {
    return "at most " + std::to_string(number);
}

/// Where the artifacts of a role lie: a file, or a folder when it ends in a slash.
std::string_view place_of(std::string_view role) {
    if (role == "torchscript") {
        return "model.ts";
    }
    if (role == "onnx") {
        return "model.onnx";
    }
    if (role == "labels") {
        return "labels.txt";
    }
    if (role == "target") {
        return "targets/";
    }
    return role == "measurement" ? "measurements/" : "golden/";
}

std::string lower(std::string text) {
    for (char& letter : text) {
        if ('A' <= letter && letter <= 'Z') {
            letter = static_cast<char>(letter - 'A' + 'a');
        }
    }
    return text;
}

std::vector<std::string> parents(const std::string& path) {
    std::vector<std::string> folders;
    for (auto end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1)) {
        folders.push_back(path.substr(0, end));
    }
    return folders;
}

/// Whether `toolchain` or `agreement.packages` has the double's version of the device's package.
bool names_double(const Target& target) {
    for (const auto* versions : {&target.toolchain, &target.agreement.packages}) {
        for (const char* name : {"mindietorch", "torch_aie"}) {
            const auto found = versions->find(name);
            if (found != versions->end() && found->second == "double") {
                return true;
            }
        }
    }
    return false;
}

/// The checks, with what they all need: the manifest and its name in errors.
class Checks {
  public:
    Checks(const Manifest& manifest, const std::string& where)
        : manifest_(manifest), where_(where) {}

    void check_artifacts() const {
        std::set<std::string> files = {"manifest.json"};
        std::set<std::string> folders;
        for (std::size_t index = 0; index < manifest_.artifacts.size(); ++index) {
            const Artifact& artifact = manifest_.artifacts[index];
            const std::string field = element("artifacts", index);
            const std::string path = lower(artifact.path);
            const auto above = parents(path);
            const bool under_a_file =
                std::any_of(above.begin(), above.end(),
                            [&](const auto& folder) { return files.count(folder) != 0; });
            if (files.count(path) != 0 || folders.count(path) != 0 || under_a_file) {
                throw error(Code::E_MANIFEST_PATH_TWIN, field + ".path").got(artifact.path);
            }
            files.insert(path);
            folders.insert(above.begin(), above.end());
            check_place(artifact, field);
            check_chunks(artifact, field);
        }
    }

    void check_references() const {
        std::map<std::string_view, std::string_view> roles;
        for (const auto& artifact : manifest_.artifacts) {
            roles[artifact.path] = artifact.role;
        }
        for (const char* file : {"model.ts", "model.onnx", "labels.txt"}) {
            if (roles.count(file) == 0) {
                throw error(Code::E_MANIFEST_REFERENCE, "artifacts").expected(file);
            }
        }
        const auto check = [&](const std::string& field, std::string_view path, Words allowed) {
            const auto found = roles.find(path);
            if (found == roles.end() ||
                std::find(allowed.begin(), allowed.end(), found->second) == allowed.end()) {
                throw error(Code::E_MANIFEST_REFERENCE, field)
                    .expected("an artifact of role " + joined(allowed))
                    .got(path);
            }
        };
        for (std::size_t index = 0; index < manifest_.targets.size(); ++index) {
            const auto& files = manifest_.targets[index].files;
            for (std::size_t number = 0; number < files.size(); ++number) {
                check(element(element("targets", index) + ".files", number), files[number],
                      {"onnx", "target", "torchscript"});
            }
        }
        for (std::size_t index = 0; index < manifest_.goldens.size(); ++index) {
            const Golden& golden = manifest_.goldens[index];
            const std::string field = element("goldens", index);
            check(field + ".source", golden.source, {"golden_source"});
            check(field + ".crop", golden.crop, {"golden_crop"});
            check(field + ".logits", golden.logits, {"golden_logits"});
        }
        for (std::size_t index = 0; index < manifest_.accuracy.size(); ++index) {
            check(element("accuracy", index) + ".predictions",
                  manifest_.accuracy[index].predictions, {"measurement"});
        }
        for (std::size_t index = 0; index < manifest_.performance.size(); ++index) {
            check(element("performance", index) + ".latencies",
                  manifest_.performance[index].latencies, {"measurement"});
        }
        for (std::size_t index = 0; index < manifest_.levels.size(); ++index) {
            const LevelRecord& level = manifest_.levels[index];
            const std::string field = element("levels", index);
            check(field + ".latencies", level.latencies, {"measurement"});
            if (level.predictions) {
                check(field + ".predictions", *level.predictions, {"measurement"});
            }
        }
    }

    void check_targets() const {
        std::set<std::string_view> ids;
        for (std::size_t index = 0; index < manifest_.targets.size(); ++index) {
            const Target& target = manifest_.targets[index];
            const std::string field = element("targets", index);
            if (!ids.insert(target.id).second) {
                throw value_error(field + ".id", "each id once").got(target.id);
            }
            const std::set<std::string_view> files(target.files.begin(), target.files.end());
            if (files.size() != target.files.size()) {
                throw value_error(field + ".files", "each file once");
            }
            const auto& sizes = target.batch_sizes;
            const auto not_rising = [](std::int64_t one, std::int64_t next) { return one >= next; };
            if (std::adjacent_find(sizes.begin(), sizes.end(), not_rising) != sizes.end()) {
                throw value_error(field + ".batch_sizes", "each larger than the one before");
            }
            check_device(target, field);
            const Agreement& agreement = target.agreement;
            if (agreement.top1_equal > agreement.images) {
                throw value_error(field + ".agreement.top1_equal", at_most(agreement.images))
                    .got(agreement.top1_equal);
            }
            const auto digests = static_cast<std::int64_t>(agreement.logits_sha256.size());
            if (digests != agreement.images) {
                throw value_error(
                    field + ".agreement.logits_sha256",
                    std::to_string(agreement.images) + " digests, one for each golden")
                    .got(digests);
            }
        }
        for (const std::string_view backend : {"onnxruntime", "torchscript"}) {
            const auto is_base = [backend](const Target& target) {
                return target.backend == backend && target.device == "cpu" &&
                       target.precision == "fp32";
            };
            if (std::none_of(manifest_.targets.begin(), manifest_.targets.end(), is_base)) {
                throw value_error("targets", "a target of " + std::string(backend) + "-cpu-fp32");
            }
        }
    }

    /// What a backend can be: on the CPU in full precision, or one module for one batch size.
    void check_device(const Target& target, const std::string& field) const {
        const std::string device = target.backend == "torch_aie" ? "ascend310p3" : "cpu";
        if (target.device != device) {
            throw value_error(field + ".device", device).got(target.device);
        }
        if (device == "cpu") {
            if (target.precision != "fp32") {
                throw value_error(field + ".precision", "fp32").got(target.precision);
            }
            check_id(target, field + ".id");
            check_cpu_files(target, field + ".files");
            check_tolerance(target, field + ".tolerance");
            return;
        }
        if (target.batch_sizes.size() != 1) {
            throw value_error(field + ".batch_sizes", "one")
                .got(static_cast<std::int64_t>(target.batch_sizes.size()));
        }
        if (target.batch_sizes[0] > max_batch) {
            throw value_error(field + ".batch_sizes", at_most(max_batch))
                .got(target.batch_sizes[0]);
        }
        check_id(target, field + ".id");
        const std::string folder = "targets/" + target.id + "/";
        if (target.files.size() != 1 || target.files[0].rfind(folder, 0) != 0) {
            throw value_error(field + ".files", "one file below " + folder);
        }
        const auto found = target.options.find("double");
        if (found == target.options.end() || !std::holds_alternative<bool>(found->second)) {
            throw value_error(field + ".options", "double: true or false");
        }
        const bool by_double = std::get<bool>(found->second);
        if (by_double != names_double(target)) {
            throw value_error(field + ".options.double",
                              by_double ? "false: neither toolchain nor agreement.packages has the "
                                          "version double"
                                        : "true: toolchain or agreement.packages has the version "
                                          "double")
                .got(by_double ? "true" : "false");
        }
        check_tolerance(target, field + ".tolerance");
    }

    /// A name is judged by what it names: commands and records tell targets apart by it.
    void check_id(const Target& target, const std::string& field) const {
        const std::string implied = target.device == "cpu"
                                        ? target.backend + "-cpu-" + target.precision
                                        : target.device + "-" + target.precision + "-b" +
                                              std::to_string(target.batch_sizes[0]) + "-o" +
                                              std::to_string(target.optim_level);
        if (target.id != implied) {
            throw value_error(field, implied).got(target.id);
        }
    }

    /// All that each engine loads: a digest over less would not say which weights were measured.
    void check_cpu_files(const Target& target, const std::string& field) const {
        std::vector<std::string> files = {"model.ts"};
        std::string told = "model.ts";
        if (target.backend == "onnxruntime") {
            files.insert(files.begin(), "model.onnx");
            told.insert(0, "model.onnx and ");
        }
        if (target.files != files) {
            throw value_error(field, told);
        }
    }

    /// What may differ: in full precision the difference decides, no cosine in its place.
    void check_tolerance(const Target& target, const std::string& field) const {
        if (target.precision == "fp32" && target.tolerance.cosine) {
            throw value_error(field + ".cosine", "null, for fp32");
        }
        if (target.device == "cpu" && target.tolerance.max_rel_diff > max_cpu_difference) {
            throw value_error(field + ".max_rel_diff", "at most 0.001 on the CPU");
        }
    }

    void check_goldens() const {
        const std::int64_t classes = manifest_.model.classes;
        for (std::size_t index = 0; index < manifest_.goldens.size(); ++index) {
            const Golden& golden = manifest_.goldens[index];
            const std::string field = element("goldens", index);
            for (const auto& [name, value] :
                 {std::pair(".top1", golden.top1), std::pair(".top2", golden.top2)}) {
                if (value >= classes) {
                    throw error(Code::E_MANIFEST_REFERENCE, field + name)
                        .expected("a class below " + std::to_string(classes))
                        .got(value);
                }
            }
            if (golden.top1 == golden.top2) {
                throw value_error(field + ".top2", "another class than top1").got(golden.top2);
            }
            // Divided, since the product may be more than 64 bits hold.
            const std::int64_t pixels = manifest_.preprocess.max_pixels;
            if (golden.width > pixels / golden.height) {
                throw value_error(field + ".height", at_most(pixels) + " pixels in all")
                    .got(golden.height);
            }
        }
    }

    void check_weights() const {
        const std::int64_t archive = manifest_.artifact("model.ts").size;
        std::set<std::string_view> names;
        std::vector<std::pair<std::int64_t, std::size_t>> order;
        for (std::size_t index = 0; index < manifest_.weights.size(); ++index) {
            const Weight& weight = manifest_.weights[index];
            if (!names.insert(weight.name).second) {
                throw weight_error(index, ".name").expected("each name once").got(weight.name);
            }
            if (!has_bytes_of_its_shape(weight)) {
                throw weight_error(index, ".length")
                    .expected("4 for each element of the shape")
                    .got(weight.length);
            }
            if (weight.offset % weight_alignment != 0 || weight.offset + weight.length > archive) {
                throw weight_error(index, ".offset")
                    .expected("a multiple of " + std::to_string(weight_alignment) +
                              ", its bytes within " + std::to_string(archive))
                    .got(weight.offset);
            }
            order.emplace_back(weight.offset, index);
        }
        std::sort(order.begin(), order.end());
        std::int64_t end = 0;
        for (const auto& [offset, index] : order) {
            if (offset < end) {
                throw weight_error(index, ".offset")
                    .expected("at least " + std::to_string(end) + ", where another weight ends")
                    .got(offset);
            }
            end = offset + manifest_.weights[index].length;
        }
    }

    void check_model() const {
        const Architecture& model = manifest_.model;
        const Preprocess& preprocess = manifest_.preprocess;
        if (model.image_size % model.patch_size != 0) {
            throw value_error("model.patch_size",
                              "a divisor of the image's " + std::to_string(model.image_size))
                .got(model.patch_size);
        }
        if (model.width % model.heads != 0) {
            throw value_error("model.heads",
                              "a divisor of the width " + std::to_string(model.width))
                .got(model.heads);
        }
        const std::string mode = preprocess.profile == "timm" ? "shorter_side" : "square";
        if (preprocess.resize.mode != mode) {
            throw value_error("preprocess.resize.mode", mode).got(preprocess.resize.mode);
        }
        if (preprocess.resize.size < preprocess.crop.size) {
            throw value_error("preprocess.resize.size",
                              "at least the crop's " + std::to_string(preprocess.crop.size))
                .got(preprocess.resize.size);
        }
        if (preprocess.crop.size != model.image_size) {
            throw value_error("preprocess.crop.size", std::to_string(model.image_size))
                .got(preprocess.crop.size);
        }
        check_shape("inputs[0].shape", manifest_.inputs[0].shape,
                    {batch_dimension, 3, model.image_size, model.image_size});
        check_shape("outputs[0].shape", manifest_.outputs[0].shape,
                    {batch_dimension, model.classes});
    }

  private:
    [[nodiscard]] Error error(Code code, const std::string& field) const {
        return Error(code, where_).field(field);
    }

    [[nodiscard]] Error value_error(const std::string& field, const std::string& expected) const {
        return error(Code::E_MANIFEST_VALUE, field).expected(expected);
    }

    [[nodiscard]] Error weight_error(std::size_t index, const char* member) const {
        return error(Code::E_MANIFEST_WEIGHTS, element("weights", index) + member);
    }

    void check_place(const Artifact& artifact, const std::string& field) const {
        const std::string place(place_of(artifact.role));
        const bool inside = place.back() == '/' && artifact.path.rfind(place, 0) == 0;
        if (!inside && artifact.path != place) {
            throw value_error(field + ".path", place + " for the role " + artifact.role)
                .got(artifact.path);
        }
    }

    void check_chunks(const Artifact& artifact, const std::string& field) const {
        if (artifact.role == "measurement" && artifact.size > max_record_bytes) {
            throw value_error(field + ".size", at_most(max_record_bytes) + " bytes of evidence")
                .got(artifact.size);
        }
        const std::int64_t chunks =
            artifact.size > chunked_above ? (artifact.size - 1) / chunk_size + 1 : 0;
        const auto listed = static_cast<std::int64_t>(artifact.chunks.size());
        if (listed != chunks) {
            throw error(Code::E_MANIFEST_CHUNKS, field + ".chunks").expected(chunks).got(listed);
        }
    }

    static bool has_bytes_of_its_shape(const Weight& weight) {
        std::int64_t bytes = 4;
        for (const std::int64_t size : weight.shape) {
            if (size > weight.length / bytes) {
                return false;  // too large already; the product may be more than 64 bits hold
            }
            bytes *= size;
        }
        return bytes == weight.length;
    }

    void check_shape(const char* field, const std::vector<std::int64_t>& actual,
                     const std::vector<std::int64_t>& shape) const {
        const auto text = [](const std::vector<std::int64_t>& sizes) {
            std::string list;
            for (const std::int64_t size : sizes) {
                list.append(list.empty() ? "" : ", ");
                list.append(size == batch_dimension ? "batch" : std::to_string(size));
            }
            return "[" + list + "]";
        };
        if (actual != shape) {
            throw value_error(field, text(shape)).got(text(actual));
        }
    }

    const Manifest& manifest_;
    const std::string& where_;
};

}  // namespace

void check_structure(const Manifest& manifest, const std::string& where) {
    const Checks checks(manifest, where);
    checks.check_artifacts();
    checks.check_references();
    checks.check_targets();
    checks.check_goldens();
    checks.check_weights();
    checks.check_model();
}

}  // namespace vitaie::detail

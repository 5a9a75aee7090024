#include "engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>
#include <vector>

#include "ascend.hpp"
#include "torch_engine.h"
#include "torch_library.hpp"
#include "torchscript_archive.hpp"

namespace vitaie::detail {

namespace {

/// A TorchScript module on the CPU, loaded from verified bytes.
class TorchScript final : public Engine {
  public:
    TorchScript(const Bundle& bundle, std::int64_t threads, const Memory& archive)
        : name_(bundle.manifest().name),
          side_(bundle.manifest().preprocess.crop.size),
          classes_(bundle.manifest().model.classes) {
        void* module = nullptr;
        check(ask_torch([&](VitaieTorchMessage message) {
                  return torch_library().engine->open(archive.data(), archive.size(), nullptr,
                                                      static_cast<std::int32_t>(threads), &module,
                                                      message);
              }),
              bundle.where("model.ts"), "Close other programs, or allow more memory.");
        module_.reset(module);
    }

    void run(const float* batch, std::int64_t count, float* logits) const override {
        const VitaieTorchBatch torch_batch = {batch, count, 3, side_, logits, classes_};
        check(ask_torch([&](VitaieTorchMessage message) {
                  return torch_library().engine->run(module_.get(), &torch_batch, message);
              }),
              name_, "Use a smaller batch.");
    }

  private:
    struct Close {
        void operator()(void* module) const { torch_library().engine->close(module); }
    };

    static void check(const TorchAnswer& answer, const std::string& where, std::string_view hint) {
        if (answer.status == VITAIE_TORCH_NO_MEMORY) {
            throw Error(Code::E_MEMORY, where).got(answer.text).hint(hint);
        }
        if (answer.status != VITAIE_TORCH_DONE) {
            throw Error(Code::E_BUNDLE_ENGINE, where).got(answer.text);
        }
    }

    std::string name_;
    std::int64_t side_;
    std::int64_t classes_;
    std::unique_ptr<void, Close> module_;
};

std::unique_ptr<Engine> open_torchscript(const Bundle& bundle, std::int64_t threads,
                                         Reading& model) {
    const Memory archive = model.take(0);
    check_archive(archive.view(), bundle.where("model.ts"));
    return std::make_unique<TorchScript>(bundle, threads, archive);
}

/// The targets in the order in which `auto` prefers them: a device before the CPU.
std::vector<const Target*> preferred(const Manifest& manifest) {
    std::vector<const Target*> targets;
    for (const auto& target : manifest.targets) {
        targets.push_back(&target);
    }
    std::stable_partition(targets.begin(), targets.end(),
                          [](const Target* target) { return is_on_device(*target); });
    return targets;
}

}  // namespace

void check_options(const EngineOptions& options) {
    if (options.threads < 0 || options.threads > max_threads) {
        throw Error(Code::E_ARGUMENT, "threads")
            .expected("1 to " + std::to_string(max_threads) + ", or 0 for the engine's own choice")
            .got(options.threads);
    }
    if (options.device_id < 0 || options.device_id > std::numeric_limits<std::int32_t>::max()) {
        throw Error(Code::E_ARGUMENT, "device_id").expected("at least 0").got(options.device_id);
    }
}

bool is_by_double(const Target& target) {
    const auto found = target.options.find("double");
    const bool* value = found == target.options.end() ? nullptr : std::get_if<bool>(&found->second);
    return value != nullptr && *value;
}

bool is_on_device(const Target& target) {
    return target.backend == ascend_backend;
}

std::optional<double> placement_of(const Target& target) {
    if (!is_on_device(target)) {
        return 1;
    }
    const auto count = [&target](const char* name) {
        const auto found = target.options.find(name);
        const auto* number =
            found == target.options.end() ? nullptr : std::get_if<std::int64_t>(&found->second);
        return number == nullptr ? -1 : *number;
    };
    const std::int64_t given = count("operators_after");
    const std::int64_t outside = count("operators_outside");
    if (given < 1 || outside < 0) {
        return std::nullopt;
    }
    return std::max(0.0, 1 - static_cast<double>(outside) / static_cast<double>(given));
}

void check_device_of(const std::vector<const Target*>& targets, const EngineOptions& options) {
    const bool is_any = std::any_of(targets.begin(), targets.end(),
                                    [](const Target* target) { return is_on_device(*target); });
    if (options.device_id == 0 || is_any) {
        return;
    }
    std::string ids;
    for (const Target* target : targets) {
        ids.append(ids.empty() ? "" : " and ").append(target->id);
    }
    throw Error(Code::E_ARGUMENT, "device_id")
        .expected("0, the default, for targets that run on the CPU")
        .got(options.device_id)
        .hint("Of " + ids + ", none runs on a device.");
}

std::optional<Missing> missing_for(const Target& target) {
    if (target.backend != "torchscript" && !is_on_device(target)) {
        return Missing{Code::E_TARGET_UNAVAILABLE,
                       "vitaie in C++ has no engine for " + target.backend,
                       "Take torchscript-cpu-fp32, or leave the target out."};
    }
    need_room(target.id);
    if (std::error_code failed; std::filesystem::current_path(failed).empty()) {
        // torch's oneMKL would end the process.
        return Missing{Code::E_TARGET_UNAVAILABLE, "the current folder was deleted"};
    }
    if (is_on_device(target)) {
        return missing_for_ascend(target);
    }
    const TorchLibrary& library = torch_library();
    return library.engine == nullptr ? std::optional(library.missing) : std::nullopt;
}

const Target& choose_target(const Manifest& manifest, std::string_view wanted) {
    const std::string_view id = wanted == "cpu" ? "onnxruntime-cpu-fp32" : wanted;
    if (wanted != "auto") {
        std::string ids;
        for (const auto& target : manifest.targets) {
            if (target.id == id) {
                if (const auto missing = missing_for(target)) {
                    throw Error(missing->code, target.id).got(missing->got).hint(missing->hint);
                }
                return target;
            }
            ids.append(ids.empty() ? "" : " or ").append(target.id);
        }
        throw Error(Code::E_TARGET_UNKNOWN, manifest.name)
            .expected(ids)
            .got(wanted)
            .hint(
                "Name one of these, or leave the target out: the best one of this machine is "
                "taken.");
    }
    std::string reasons;
    std::string hint;
    for (const Target* target : preferred(manifest)) {
        const auto missing = is_by_double(*target)
                                 ? Missing{Code::E_TARGET_UNAVAILABLE, std::string(by_double)}
                                 : missing_for(*target);
        if (!missing) {
            return *target;
        }
        reasons.append(reasons.empty() ? "" : "; ").append(target->id + ": " + missing->got);
        if (target->backend == "torchscript") {  // what every bundle has
            hint = missing->hint;
        }
    }
    throw Error(Code::E_TARGET_UNAVAILABLE, manifest.name).got(reasons).hint(hint);
}

std::map<std::string, std::string> engine_packages(const Target& target) {
    if (torch_library().engine == nullptr) {
        return {};
    }
    std::map<std::string, std::string> packages;
    if (is_on_device(target)) {
        packages = ascend_packages();
    }
    packages["torch"] = torch_library().engine->running;
    return packages;
}

std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Target& target,
                                    const EngineOptions& options, std::unique_ptr<Reading> model) {
    if (const auto missing = missing_for(target)) {
        throw Error(missing->code, target.id).got(missing->got).hint(missing->hint);
    }
    model->check();
    if (!is_on_device(target)) {
        return open_torchscript(bundle, options.threads, *model);
    }
    model.reset();  // the device has a module of its own
    if (is_by_double(target)) {
        const Manifest& manifest = bundle.manifest();
        std::fprintf(stderr, "%s %s: target %s: %s\n", manifest.name.c_str(),
                     manifest.version.c_str(), target.id.c_str(), std::string(by_double).c_str());
    }
    return open_ascend(bundle, target, static_cast<std::int32_t>(options.device_id));
}

}  // namespace vitaie::detail

#include "engine.hpp"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "torch_engine.h"
#include "torchscript_archive.hpp"

namespace vitaie::detail {

namespace {

namespace fs = std::filesystem;

constexpr const char* torch_library_name = "libvitaie_torch.so";
constexpr std::size_t message_size = 1024;

/// Returns the folder of the library, or of the program, that this function is in.
fs::path own_folder() {
    Dl_info found{};
    link_map* map = nullptr;
    const auto* here = reinterpret_cast<const void*>(&own_folder);
    const bool is_known =
        ::dladdr1(here, &found, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0;
    std::error_code failed;
    const bool is_library = is_known && map != nullptr && *map->l_name != '\0';
    return fs::canonical(is_library ? map->l_name : "/proc/self/exe", failed).parent_path();
}

/// The library with torch in it, or why there is none. Once loaded it stays: torch registers itself
/// in places that outlive any engine.
struct TorchLibrary {
    const VitaieTorchEngine* engine = nullptr;
    Missing missing = {Code::E_EXTRA_MISSING, ""};
};

TorchLibrary unavailable(std::string got) {
    return {nullptr, {Code::E_TARGET_UNAVAILABLE, std::move(got)}};
}

TorchLibrary load_torch() {
    const fs::path folder = own_folder();
    fs::path path = folder / torch_library_name;
    if (!fs::exists(path)) {
        path = folder / ".." / VITAIE_LIBDIR / torch_library_name;  // of a program in bin
    }
    if (!fs::exists(path)) {
        return {
            nullptr,
            {Code::E_EXTRA_MISSING, "torch: this vitaie was built without it, for there is no " +
                                        (folder / torch_library_name).string()}};
    }
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) {
        const char* reason = ::dlerror();
        return unavailable(reason == nullptr ? path.string() : reason);
    }
    const auto function =
        reinterpret_cast<VitaieTorchEngineFunction>(::dlsym(library, VITAIE_TORCH_ENGINE_SYMBOL));
    const VitaieTorchEngine* engine = function == nullptr ? nullptr : function();
    if (engine == nullptr || engine->interface_version != VITAIE_TORCH_ENGINE_INTERFACE) {
        return unavailable(path.string() + " is of another build of vitaie");
    }
    const std::string built_for = engine->built_for;
    if (built_for != engine->running) {
        return unavailable(path.string() + " was built for torch " + built_for +
                           ", and this process has torch " + engine->running);
    }
    return {engine, {Code::E_EXTRA_MISSING, ""}};
}

const TorchLibrary& torch_library() {
    static const TorchLibrary library = load_torch();
    return library;
}

/// Calls a function of torch's library, and throws what it says.
template <class Call>
void call(const std::string& where, std::string_view hint, Call act) {
    std::array<char, message_size> text{};
    const int status = act(VitaieTorchMessage{text.data(), text.size()});
    if (status == VITAIE_TORCH_NO_MEMORY) {
        throw Error(Code::E_MEMORY, where).got(text.data()).hint(hint);
    }
    if (status != VITAIE_TORCH_DONE) {
        throw Error(Code::E_BUNDLE_ENGINE, where).got(text.data());
    }
}

/// A TorchScript module, loaded from verified bytes.
class TorchScript final : public Engine {
  public:
    TorchScript(const Bundle& bundle, std::int64_t threads, const Memory& archive)
        : name_(bundle.manifest().name),
          side_(bundle.manifest().preprocess.crop.size),
          classes_(bundle.manifest().model.classes) {
        void* module = nullptr;
        call(bundle.where("model.ts"), "Close other programs, or allow more memory.",
             [&](VitaieTorchMessage message) {
                 return torch_library().engine->open(archive.data(), archive.size(),
                                                     static_cast<std::int32_t>(threads), &module,
                                                     message);
             });
        module_.reset(module);
    }

    void run(const float* batch, std::int64_t count, float* logits) const override {
        const VitaieTorchBatch torch_batch = {batch, count, 3, side_, logits, classes_};
        call(name_, "Use a smaller batch.", [&](VitaieTorchMessage message) {
            return torch_library().engine->run(module_.get(), &torch_batch, message);
        });
    }

  private:
    struct Close {
        void operator()(void* module) const { torch_library().engine->close(module); }
    };
    std::string name_;
    std::int64_t side_;
    std::int64_t classes_;
    std::unique_ptr<void, Close> module_;
};

}  // namespace

std::optional<Missing> missing_for(const Target& target) {
    if (target.backend != "torchscript") {
        return Missing{Code::E_TARGET_UNAVAILABLE,
                       "vitaie in C++ has no engine for " + target.backend};
    }
    if (std::error_code failed; fs::current_path(failed).empty()) {
        // torch's oneMKL would end the process.
        return Missing{Code::E_TARGET_UNAVAILABLE, "the current folder was deleted"};
    }
    const TorchLibrary& library = torch_library();
    return library.engine == nullptr ? std::optional(library.missing) : std::nullopt;
}

const Target& choose_target(const Manifest& manifest, std::string_view wanted) {
    const std::string_view id = wanted == "cpu" ? "onnxruntime-cpu-fp32" : wanted;
    std::string ids;
    std::string reasons;
    std::optional<Code> code;
    for (const auto& target : manifest.targets) {
        ids.append(ids.empty() ? "" : " or ").append(target.id);
        if (wanted != "auto" && target.id != id) {
            continue;
        }
        const auto missing = missing_for(target);
        if (!missing) {
            return target;
        }
        if (wanted != "auto") {
            throw Error(missing->code, target.id).got(missing->got);
        }
        reasons.append(reasons.empty() ? "" : "; ").append(target.id + ": " + missing->got);
        code = Code::E_TARGET_UNAVAILABLE;
    }
    if (!code) {
        throw Error(Code::E_TARGET_UNKNOWN, manifest.name).expected(ids).got(wanted);
    }
    throw Error(*code, manifest.name).got(reasons);
}

std::map<std::string, std::string> engine_packages(const Target& target) {
    if (target.backend != "torchscript" || torch_library().engine == nullptr) {
        return {};
    }
    return {{"torch", torch_library().engine->running}};
}

void check_threads(std::int64_t threads) {
    if (threads < 0 || threads > max_threads) {
        throw Error(Code::E_ARGUMENT, "threads")
            .expected("1 to " + std::to_string(max_threads))
            .got(threads);
    }
}

std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Target& target,
                                    std::int64_t threads, std::unique_ptr<Reading> model) {
    if (const auto missing = missing_for(target)) {
        throw Error(missing->code, target.id).got(missing->got);
    }
    model->check();
    const Memory archive = model->take(0);
    check_archive(archive.view(), bundle.where("model.ts"));
    return std::make_unique<TorchScript>(bundle, threads, archive);
}

}  // namespace vitaie::detail

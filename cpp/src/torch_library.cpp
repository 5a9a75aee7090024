#include "torch_library.hpp"

#include <dlfcn.h>
#include <link.h>
#include <sys/resource.h>

#include <filesystem>
#include <system_error>
#include <utility>

namespace vitaie::detail {

namespace {

namespace fs = std::filesystem;

constexpr const char* torch_library_name = "libvitaie_torch.so";
constexpr rlim_t least_address_space = rlim_t{1} << 30;

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

TorchLibrary unavailable(std::string got) {
    return {nullptr, {Code::E_TARGET_UNAVAILABLE, std::move(got)}};
}

TorchLibrary load_torch() {
    const fs::path folder = own_folder();
    fs::path path = folder / torch_library_name;
    if (!fs::exists(path) && folder.filename() == "bin") {
        path = folder.parent_path() / VITAIE_LIBDIR / torch_library_name;
    }
    if (!fs::exists(path)) {
        return {nullptr,
                {Code::E_EXTRA_MISSING,
                 "torch: this vitaie was built without it, for there is no " + path.string(),
                 "Build vitaie again with VITAIE_TORCH_ROOT, the folder of a torch."}};
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

}  // namespace

const TorchLibrary& torch_library() {
    static const TorchLibrary library = load_torch();
    return library;
}

void need_room(const std::string& where) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur < least_address_space) {
        throw Error(Code::E_MEMORY, where)
            .expected("at least 1024 MiB")
            .got(std::to_string(limit.rlim_cur >> 20) + " MiB allowed (ulimit -v)")
            .hint("PyTorch needs more.");
    }
}

}  // namespace vitaie::detail

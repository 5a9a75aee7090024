#include "ascend.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ascend_machine.hpp"
#include "thrown.hpp"
#include "torch_library.hpp"

namespace vitaie::detail {

namespace {

namespace fs = std::filesystem;

constexpr const char* library_name = "libtorch_aie.so";
constexpr const char* library_variable = "VITAIE_TORCH_AIE_LIBRARY";
/// `torch_aie::set_device(int)` and `torch_aie::finalize()`, as every compiler for Linux spells
/// them: the names follow from the documented signatures, and were never seen on a device.
constexpr const char* set_device_symbol = "_ZN9torch_aie10set_deviceEi";
constexpr const char* finalize_symbol = "_ZN9torch_aie8finalizeEv";
/// What the tests' double of the library has beside them, wherever its file lies.
constexpr const char* double_symbol = "vitaie_tests_double";
constexpr const char* double_version = "double";

constexpr std::chrono::seconds finish_patience{30};  // a device that died may never answer
constexpr const char* doctor_hint = "Run: vitaie-build doctor";
constexpr const char* load_hint =
    "A module is tied to the versions that made it: compile the bundle again here.";

// The library

/// The library, its package, or why there is none. Once loaded it stays.
struct Library {
    void (*set_device)(int) = nullptr;
    void (*finalize)() = nullptr;
    Package package;
    std::string missing;

    [[nodiscard]] bool is_double() const { return package.version == double_version; }
    /// The package as errors name it.
    [[nodiscard]] std::string where() const {
        return (package.name.empty() ? library_name : package.name) + (" " + package.version);
    }
};

Library missing_library(std::string why) {
    Library library;
    library.missing = std::move(why);
    return library;
}

std::string last_failure() {
    const char* reason = ::dlerror();
    return reason == nullptr ? library_name : reason;
}

Library load_library() {
    const char* named = ::secure_getenv(library_variable);
    const bool is_named = named != nullptr && *named != '\0';
    // For all to see: modules look for what it adds to torch, and never name it.
    void* loaded =
        ::dlopen(is_named ? named : library_name, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    if (loaded == nullptr) {
        return missing_library(last_failure() + ": it comes with the device's CANN; " +
                               library_variable + " or LD_LIBRARY_PATH says where it is");
    }
    Library library;
    library.set_device = reinterpret_cast<void (*)(int)>(::dlsym(loaded, set_device_symbol));
    library.finalize = reinterpret_cast<void (*)()>(::dlsym(loaded, finalize_symbol));
    if (library.set_device == nullptr || library.finalize == nullptr) {
        return missing_library(last_failure());
    }
    link_map* map = nullptr;
    if (::dlinfo(loaded, RTLD_DI_LINKMAP, static_cast<void*>(&map)) == 0) {
        std::error_code failed;
        library.package = find_package(fs::canonical(map->l_name, failed));
    }
    if (::dlsym(loaded, double_symbol) != nullptr) {
        library.package.version = double_version;
    }
    return library;
}

const Library& library() {
    static const Library loaded = load_library();
    return loaded;
}

// What it throws

/// Returns a message of many lines as its first and its last: between them torch puts its stacks.
std::string told(const std::string& text) {
    constexpr std::size_t longest_first = 60;
    std::vector<std::string> lines;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        std::string line = text.substr(begin, end - begin);
        line.erase(0, line.find_first_not_of(" \t\r"));
        line.erase(line.find_last_not_of(" \t\r") + 1);
        if (!line.empty()) {
            lines.push_back(std::move(line));
        }
        begin = end + 1;
    }
    if (lines.empty()) {
        return "without a text";
    }
    if (lines.size() == 1) {
        return lines.front();
    }
    return lines.front().substr(0, longest_first) + (lines.size() == 2 ? " " : " … ") +
           lines.back();
}

Error device_error(const std::string& step, const std::string& got) {
    return Error(Code::E_DEVICE, library().where())
        .field(step)
        .got(got)
        .hint(step == "load" ? load_hint : doctor_hint);
}

// The device

/// One device, which one thread of this process owns.
class Device {
  public:
    /// Sets the device, on the thread that stays.
    ///
    /// \throws Error `E_DEVICE` the package refuses.
    explicit Device(std::int32_t number)
        : number_(number), place_("npu:" + std::to_string(number)), thread_(&Device::work, this) {
        try {
            on_thread([this] { call("start", [this] { library().set_device(number_); }); });
        } catch (...) {
            stop();
            thread_.join();
            throw;
        }
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device() {
        stop();
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    [[nodiscard]] std::int32_t number() const { return number_; }

    /// Loads a compiled module from bytes whose digest was checked: loading it runs code.
    ///
    /// \throws Error `E_DEVICE` the package, or torch, refuses it.
    void* load(const Memory& archive) {
        void* module = nullptr;
        on_thread([&] {
            check(ask_torch([&](VitaieTorchMessage message) {
                return torch_library().engine->open(archive.data(), archive.size(), place_.c_str(),
                                                    0, &module, message);
            }));
            modules_.insert(module);
        });
        return module;
    }

    /// Runs a batch of the module's own size, from and to the host's memory, and waits for it.
    ///
    /// \throws Error `E_DEVICE` the device fails; `E_BUNDLE_ENGINE` these are no logits.
    void run(void* module, const VitaieTorchBatch& batch, const std::string& name) {
        on_thread([&] {
            const TorchAnswer answer = ask_torch([&](VitaieTorchMessage message) {
                return torch_library().engine->run(module, &batch, message);
            });
            if (answer.status == VITAIE_TORCH_OTHER_LOGITS) {
                throw Error(Code::E_BUNDLE_ENGINE, name).got(answer.text);
            }
            check(answer);
        });
    }

    /// Lets go of a module, unless `finish` did already.
    void close(void* module) noexcept {
        try {
            on_thread([&] {
                if (modules_.erase(module) != 0) {
                    torch_library().engine->close(module);
                }
            });
        } catch (const std::exception&) {  // the device was given back, and the module with it
        }
    }

    /// Calls `finalize`, after which nothing of the package works in this process.
    void finish() noexcept {
        auto done = std::make_shared<std::promise<std::string>>();
        auto answer = done->get_future();
        {
            const std::lock_guard lock(mutex_);
            jobs_.emplace_back([this, done] {
                for (void* module : modules_) {
                    torch_library().engine->close(module);
                }
                modules_.clear();
                try {
                    call("finalize", [] { library().finalize(); });
                    done->set_value("");
                } catch (const Error& error) {
                    done->set_value(error.line());
                }
            });
            stopped_ = true;
        }
        changed_.notify_all();
        if (answer.wait_for(finish_patience) != std::future_status::ready) {
            std::fprintf(stderr, "%s: finalize: no answer\n", library().where().c_str());
            thread_.detach();
            return;
        }
        thread_.join();
        if (const std::string line = answer.get(); !line.empty()) {
            std::fprintf(stderr, "%s\n", line.c_str());
        }
    }

  private:
    /// Runs `act`, in which the package is called directly.
    template <class Act>
    static void call(const char* step, Act act) {
        std::string got;
        try {
            act();
            return;
        } catch (const std::exception& error) {
            got = class_of_exception() + ": " + told(error.what());
        } catch (...) {  // the package documents no class
            got = "an exception of the class " + class_of_exception();
        }
        throw device_error(step, got);
    }

    static void check(const TorchAnswer& answer) {
        if (answer.status != VITAIE_TORCH_DONE) {
            throw device_error(answer.step, told(answer.text));
        }
    }

    /// Runs `act` on the device's thread and waits; what it throws is thrown here.
    void on_thread(const std::function<void()>& act) {
        std::packaged_task<void()> task(act);
        auto done = task.get_future();
        {
            const std::lock_guard lock(mutex_);
            if (stopped_) {
                throw device_error("forward", "the device was given back");
            }
            jobs_.emplace_back([&task] { task(); });
        }
        changed_.notify_all();
        done.get();
    }

    void stop() noexcept {
        {
            const std::lock_guard lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
    }

    /// Does jobs in their order until there are none and there will be none.
    void work() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
            if (jobs_.empty()) {
                return;
            }
            const std::function<void()> job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            job();
            lock.lock();
        }
    }

    const std::int32_t number_;
    const std::string place_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;
    bool stopped_ = false;
    std::set<void*> modules_;  // the thread's own
    std::thread thread_;       // the last member: it uses all others
};

/// This process's device.
struct Opened {
    std::mutex mutex;
    std::shared_ptr<Device> device;
    bool finished = false;
};

Opened& opened() {
    static auto* const one = new Opened;  // outlives whatever else ends at the process's end
    return *one;
}

/// Returns this process's device: the first caller decides which, for as long as it lives.
///
/// \throws Error `E_DEVICE` it cannot be had, or the process has another one already.
std::shared_ptr<Device> open_device(std::int32_t number) {
    Opened& here = opened();
    const std::lock_guard lock(here.mutex);
    if (here.device == nullptr) {
        here.device = std::make_shared<Device>(number);
        static const int registered = std::atexit([] { finish_ascend(); });
        static_cast<void>(registered);
    }
    if (here.device->number() != number) {
        throw Error(Code::E_DEVICE, "device " + std::to_string(number))
            .got("this process has device " + std::to_string(here.device->number()))
            .hint("Several devices are several processes.");
    }
    return here.device;
}

/// A compiled module on the device.
class Ascend final : public Engine {
  public:
    Ascend(const Bundle& bundle, const Target& target, std::int32_t device_id)
        : name_(bundle.manifest().name),
          side_(bundle.manifest().preprocess.crop.size),
          classes_(bundle.manifest().model.classes),
          batch_(target.batch_sizes.front()) {
        const Memory archive = bundle.read(target.files.front());
        device_ = open_device(device_id);
        module_ = device_->load(archive);
    }
    ~Ascend() override { device_->close(module_); }

    void run(const float* batch, std::int64_t count, float* logits) const override {
        const std::int64_t size = 3 * side_ * side_;
        std::int64_t done = 0;
        for (; count - done >= batch_; done += batch_) {
            run_piece(batch + done * size, logits + done * classes_);
        }
        if (done == count) {
            return;
        }
        const std::int64_t left = count - done;
        std::vector<float> padded(static_cast<std::size_t>(batch_ * size));
        std::copy(batch + done * size, batch + count * size, padded.begin());
        std::vector<float> answer(static_cast<std::size_t>(batch_ * classes_));
        run_piece(padded.data(), answer.data());
        std::copy(answer.begin(), answer.begin() + left * classes_, logits + done * classes_);
    }

  private:
    void run_piece(const float* batch, float* logits) const {
        device_->run(module_, {batch, batch_, 3, side_, logits, classes_}, name_);
    }

    std::string name_;
    std::int64_t side_;
    std::int64_t classes_;
    std::int64_t batch_;
    std::shared_ptr<Device> device_;
    void* module_ = nullptr;
};

// What is here and what a target was made with

std::string value_of(const std::map<std::string, std::string>& versions, const std::string& name) {
    const auto found = versions.find(name);
    return found == versions.end() ? std::string(unknown) : found->second;
}

std::string listed(const std::map<std::string, std::string>& versions) {
    std::string text;
    for (const auto& [name, version] : versions) {
        text.append(text.empty() ? "" : ", ").append(name).append(" ").append(version);
    }
    return text;
}

std::string soc_of(const Target& target) {
    const auto found = target.options.find("soc_version");
    const auto* soc =
        found == target.options.end() ? nullptr : std::get_if<std::string>(&found->second);
    return soc == nullptr ? std::string(unknown) : *soc;
}

/// Says how a target was made with something else than what is here; nothing when it was not.
std::string difference(const Target& target) {
    const Library& here = library();
    const Package& package = here.package;
    const bool is_named = !package.name.empty();
    const bool is_other = is_named && target.toolchain.count(package.name) == 0;
    if (is_other || here.is_double() != is_by_double(target)) {
        return "it was compiled with " + listed(target.toolchain) + ", and here is " + here.where();
    }
    // Neither changes while a process lives, and npu-smi takes its time.
    static const std::vector<std::string> chips = find_chips();
    static const std::string cann = find_cann();
    struct Sides {
        std::string what;
        std::string then;
        std::string now;
    };
    const std::vector<Sides> all = {
        {package.name, value_of(target.toolchain, package.name), package.version},
        {"CANN", value_of(target.toolchain, "cann"), cann},
        {"chip", soc_of(target), chips.empty() ? std::string(unknown) : chips.front()},
    };
    for (const auto& [what, then, now] : all) {
        if (then != unknown && now != unknown && then != now) {
            return "it was compiled for " + what + " " + then + ", and here is " + now;
        }
    }
    return "";
}

}  // namespace

std::optional<Missing> missing_for_ascend(const Target& target) {
    const TorchLibrary& torch = torch_library();
    std::string got = torch.missing.got;
    if (torch.engine != nullptr) {
        got = library().missing.empty() ? difference(target) : library().missing;
    }
    return got.empty() ? std::nullopt
                       : std::optional(Missing{Code::E_TARGET_UNAVAILABLE, std::move(got)});
}

std::map<std::string, std::string> ascend_packages() {
    std::map<std::string, std::string> packages;
    const Package& package = library().package;
    packages[package.name.empty() ? std::string(ascend_backend) : package.name] = package.version;
    if (const std::string cann = find_cann(); cann != unknown) {
        packages["cann"] = cann;
    }
    return packages;
}

std::unique_ptr<Engine> open_ascend(const Bundle& bundle, const Target& target,
                                    std::int32_t device_id) {
    return std::make_unique<Ascend>(bundle, target, device_id);
}

void finish_ascend() noexcept {
    Opened& here = opened();
    const std::lock_guard lock(here.mutex);
    if (here.device != nullptr && !std::exchange(here.finished, true)) {
        here.device->finish();
    }
}

}  // namespace vitaie::detail

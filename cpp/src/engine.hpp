/// What turns a tensor into logits, and which of a bundle's targets can do it on this machine.
///
///     const Target& target = choose_target(manifest, "auto");
///     const auto engine = open_engine(bundle, target, {}, bundle.begin("model.ts"));
///     engine->run(batch, 1, logits);
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.hpp"
#include "bytes.hpp"
#include "error.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

/// What an engine is told beside its target.
struct EngineOptions {
    std::int64_t threads = 0;    ///< for the whole process; 0 for the engine's own choice
    std::int64_t device_id = 0;  ///< which device of the machine; of no use to the CPU
};

/// \throws Error `E_ARGUMENT`, unless the threads are 0 to 1024 and the device's number is one.
void check_options(const EngineOptions& options);

/// A bundle's model, ready to run. Safe to call from several threads.
class Engine {
  public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    /// Writes the logits, float32 [count, classes], of a batch, float32 [count, 3, S, S].
    ///
    /// \throws Error `E_BUNDLE_ENGINE` the engine fails; `E_MEMORY` there is not enough for so many;
    ///     `E_DEVICE` the device fails, and the bundle is not at fault.
    virtual void run(const float* batch, std::int64_t count, float* logits) const = 0;
};

/// What is said of a target that is evidence of nothing, wherever it is met.
inline constexpr std::string_view by_double = "made with the tests' double: it ran on no device";

/// Says whether the tests' double of a device's package made a target.
bool is_by_double(const Target& target);

/// Says whether a target runs on a device and not on the CPU.
bool is_on_device(const Target& target);

/// Returns the share of a target's operators that run on its device; nothing where nobody counted.
std::optional<double> placement_of(const Target& target);

/// Refuses a number of a device where none of the targets runs on one: it would choose nothing.
///
/// \throws Error `E_ARGUMENT`.
void check_device_of(const std::vector<const Target*>& targets, const EngineOptions& options);

/// Why a target cannot run here.
struct Missing {
    Code code;
    std::string got;
    std::string hint = {};
};

/// Returns what this machine or this build lacks to run a target, or has of another version than it
/// was made with; nothing when it can.
///
/// \throws Error `E_MEMORY` torch would end the process, for it may have too little address space.
std::optional<Missing> missing_for(const Target& target);

/// Returns the target to run: the one named (`cpu` for short), or for `auto` the best that can run
/// here, which is never one that the tests' double made.
///
/// \throws Error `E_TARGET_UNKNOWN`; `E_EXTRA_MISSING` or `E_TARGET_UNAVAILABLE` with what is
///     missing; as `missing_for`.
const Target& choose_target(const Manifest& manifest, std::string_view wanted);

/// Returns the packages that a target runs in, with the versions that are loaded, as records keep
/// them. The target can run here.
std::map<std::string, std::string> engine_packages(const Target& target);

/// Makes the engine of a target that can run here from the bundle's bytes. That of a target by the
/// double says so on stderr.
///
/// \param model The bytes of `model.ts`, which are checked first.
/// \throws Error A digest is wrong, the archive holds what no bundle's does, or the engine refuses.
std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Target& target,
                                    const EngineOptions& options, std::unique_ptr<Reading> model);

}  // namespace vitaie::detail

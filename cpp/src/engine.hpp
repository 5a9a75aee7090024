/// What turns a tensor into logits, and which of a bundle's targets can do it on this machine.
///
///     const Target& target = choose_target(manifest, "auto");
///     const auto engine = open_engine(bundle, target, 0, bundle.begin("model.ts"));
///     engine->run(batch, 1, logits);
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bundle.hpp"
#include "bytes.hpp"
#include "error.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

/// The most threads an engine is told to use: some start as many as they are told.
inline constexpr std::int64_t max_threads = 1024;

/// A bundle's model, ready to run. Safe to call from several threads.
class Engine {
  public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    /// Writes the logits, float32 [count, classes], of a batch, float32 [count, 3, S, S].
    ///
    /// \throws Error `E_BUNDLE_ENGINE` the engine fails; `E_MEMORY` there is not enough for so many.
    virtual void run(const float* batch, std::int64_t count, float* logits) const = 0;
};

/// Why a target cannot run here.
struct Missing {
    Code code;
    std::string got;
};

/// Returns what this machine or this build lacks to run a target; nothing when it can.
std::optional<Missing> missing_for(const Target& target);

/// Returns the target to run: the one named (`cpu` for short), or for `auto` the best that can run
/// here.
///
/// \throws Error `E_TARGET_UNKNOWN`; `E_EXTRA_MISSING` or `E_TARGET_UNAVAILABLE` with what is
///     missing.
const Target& choose_target(const Manifest& manifest, std::string_view wanted);

/// Returns the packages that a target runs in, with the versions that are loaded, as records keep
/// them. The target can run here.
std::map<std::string, std::string> engine_packages(const Target& target);

/// \throws Error `E_ARGUMENT`, unless it is 0, for the engine's own choice, or 1 to 1024.
void check_threads(std::int64_t threads);

/// Makes the engine of a target that can run here from the bundle's bytes.
///
/// \param threads Threads of the engine, for the whole process; 0 for its own choice.
/// \param model The bytes of `model.ts`, which are checked first.
/// \throws Error A digest is wrong, the archive holds what no bundle's does, or the engine refuses.
std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Target& target,
                                    std::int64_t threads, std::unique_ptr<Reading> model);

}  // namespace vitaie::detail

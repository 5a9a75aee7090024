/// Re-checking what a bundle claims on this device: its files, and its goldens at every stage.
///
///     const Verdict verdict = verify(Bundle::open(path), "all", {}, [](auto&) {});
///     for (const Claim& each : verdict.claims) { … }
///
/// The claims, their order, words and verdicts are those of runtime/vitaie/runtime/_verify.py; the
/// names of the five most probable classes are added to them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.hpp"
#include "engine.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

enum class Status { is_true, is_false, not_checked };

/// Returns "true", "false" or "not checked".
std::string_view text(Status status);

/// One thing that a bundle says, and whether it was found true here.
struct Claim {
    std::string claim;
    Status status;
    std::string detail;
};

using Progress = std::function<void(const std::string& step)>;

/// Returns all claims of a bundle, checked or said to be unchecked.
///
/// \param target A target's id, or `all` that run here.
/// \param progress Is told each step as it starts.
/// \throws Error The bundle does not open: that is false before any claim. Or the target named
///     cannot run here.
std::vector<Claim> verify(const Bundle& bundle, const std::string& target,
                          const EngineOptions& options, const Progress& progress);

/// Says whether nothing that was checked is false.
bool holds(const std::vector<Claim>& claims);

/// A target beside TorchScript, on the goldens and on seeded input.
struct Comparison {
    std::string target;
    bool is_by_double = false;
    std::int64_t batch_size = 1;
    std::int64_t images = 0;
    double difference = 0;           ///< the largest, relative to the largest logit of its image
    double absolute_difference = 0;  ///< the largest
    double distance = 0;             ///< the largest relative Euclidean distance
    double cosine = 1;               ///< the least, of an image's logits
    std::int64_t top1 = 0;           ///< images of the same most probable class
    std::int64_t top5 = 0;           ///< images of the same five, in any order
    Tolerance tolerance;             ///< the target's
    std::int64_t flipped = 0;  ///< images of another most probable class, beyond the tolerance

    [[nodiscard]] bool same() const;
    /// How near they are, in words.
    [[nodiscard]] std::string told() const;
};

/// \throws Error `E_ARGUMENT`, unless it is 1 to 1024.
void check_batch(std::int64_t batch_size);

/// Runs a target in batches, and TorchScript on one image at a time, on the same tensors: those of
/// the goldens and seeded ones. For a golden, TorchScript's logits are those that ship, so where
/// the target is TorchScript itself something is compared all the same.
///
/// \throws Error As `verify`; `E_ARGUMENT` the batch is not 1 to 1024; `E_BUNDLE_GOLDEN` a golden's
///     crop is not what the manifest says.
Comparison compare(const Bundle& bundle, const std::string& target, std::int64_t batch_size,
                   const EngineOptions& options, const Progress& progress);

}  // namespace vitaie::detail

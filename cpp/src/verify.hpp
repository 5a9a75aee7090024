/// Re-checking what a bundle claims on this device: its files, and its goldens at every stage.
///
///     const Verdict verdict = verify(Bundle::open(path), "all", 0, [](auto&) {});
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

/// What is said of a target that is evidence of nothing, wherever it is met.
inline constexpr std::string_view by_double = "made with the tests' double: it ran on no device";

/// Says whether the tests' double of a device's package made a target.
bool is_by_double(const Target& target);

using Progress = std::function<void(const std::string& step)>;

/// Returns all claims of a bundle, checked or said to be unchecked.
///
/// \param target A target's id, or `all` that run here.
/// \param threads Threads of the engines; 0 for their own choice.
/// \param progress Is told each step as it starts.
/// \throws Error The bundle does not open: that is false before any claim. Or the target named
///     cannot run here.
std::vector<Claim> verify(const Bundle& bundle, const std::string& target, std::int64_t threads,
                          const Progress& progress);

/// Says whether nothing that was checked is false.
bool holds(const std::vector<Claim>& claims);

/// A target beside TorchScript, on the goldens and on seeded input.
struct Comparison {
    std::string target;
    std::int64_t batch_size;
    std::int64_t images;
    double difference;     ///< the largest, relative to the largest logit of its image
    double tolerance;      ///< the target's
    std::int64_t flipped;  ///< images of another most probable class, beyond the tolerance

    [[nodiscard]] bool same() const { return difference <= tolerance && flipped == 0; }
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
                   std::int64_t threads, const Progress& progress);

}  // namespace vitaie::detail

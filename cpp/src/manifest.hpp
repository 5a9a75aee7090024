/// What `manifest.json` says, format 1, as plain structs; docs/bundle-format.md gives every field.
///
///     Manifest manifest = parse_manifest(bytes, "bundles/vit/1.0.0/manifest.json");
///     for (const Artifact& artifact : manifest.artifacts) { … }
///
/// The verdicts are those of manifests/vitaie/manifests/manifest.py, to the code and the field
/// path.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "records.hpp"

namespace vitaie::detail {

inline constexpr std::string_view format_name = "vitaie-bundle";
inline constexpr std::int64_t format_version = 1;
inline constexpr std::size_t max_manifest_bytes = std::size_t{1} << 20;
/// Outside of strings. A manifest of 1 MiB, with a line for each value, has hardly more.
inline constexpr std::size_t max_manifest_commas = std::size_t{1} << 15;
inline constexpr std::size_t max_manifest_brackets = std::size_t{1} << 12;
inline constexpr std::int64_t max_pixels = std::int64_t{1} << 26;

/// The checkpoint the bundle was made from, and the card that said what it is.
struct Source {
    std::string file;
    std::int64_t size = 0;
    std::string sha256;
    std::string layout;
    std::string variant;
    std::string card_sha256;
};

/// The architecture. `gflop` counts a multiply-add as two, for one image.
struct Architecture {
    std::string architecture;
    std::string timm_tag;
    std::int64_t image_size = 0;
    std::int64_t patch_size = 0;
    std::int64_t width = 0;
    std::int64_t depth = 0;
    std::int64_t heads = 0;
    std::int64_t mlp_dim = 0;
    std::int64_t classes = 0;
    std::int64_t parameters = 0;
    double gflop = 0;
};

/// A dimension that takes any size of at least 1; `"batch"` in the manifest.
inline constexpr std::int64_t batch_dimension = -1;

/// An input or output.
struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
};

/// Pillow's 8-bit two-pass bicubic. `shorter_side` keeps the aspect, `square` does not.
struct Resize {
    std::string mode;
    std::int64_t size = 0;
    std::string interpolation;
    std::string pass_order;
};

/// A square of `size` pixels from the centre; offsets round half to even.
struct Crop {
    std::string mode;
    std::int64_t size = 0;
};

/// Image to tensor, every number stated: `((v / scale) - mean) / std` in float32.
struct Preprocess {
    std::string profile;
    std::string color;
    std::int64_t max_pixels = 0;
    Resize resize;
    Crop crop;
    std::int64_t scale = 0;
    std::array<double, 3> mean{};
    std::array<double, 3> std{};
};

/// One file: its size in bytes, its digest, and over 8 MiB the digest of each 16 MiB chunk.
struct Artifact {
    std::string path;
    std::string role;
    std::int64_t size = 0;
    std::string sha256;
    std::vector<std::string> chunks;
};

/// One external tensor of `model.onnx`: where its bytes lie inside `model.ts`.
struct Weight {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::int64_t offset = 0;
    std::int64_t length = 0;
};

/// What a target's logits may differ from the source model's on another processor.
///
/// `max_rel_diff` is the largest difference, relative to the largest logit; `cosine` the least
/// cosine of the two, for reduced precision.
struct Tolerance {
    double max_rel_diff = 0;
    std::optional<double> cosine;
};

/// How a target's logits on the goldens differ from the source model's, when it was built.
///
/// `logits_sha256` are of its own, float32 [classes] little-endian, one for each golden in order.
/// The same target, `packages` and `threads` on a processor of the same `features` give them again
/// to the last bit.
struct Agreement {
    std::int64_t images = 0;
    double max_abs_diff = 0;
    double max_rel_diff = 0;
    std::int64_t top1_equal = 0;
    std::vector<std::string> logits_sha256;
    std::int64_t threads = 0;
    std::string processor;
    std::vector<std::string> features;
    std::map<std::string, std::string> packages;
};

using Option = std::variant<bool, std::int64_t, std::string>;

/// One way to run the bundle. No batch sizes means any batch. What the tests' double of a device's
/// package made has the option `double`: it ran on no device, and is evidence of nothing.
struct Target {
    std::string id;
    std::string backend;
    std::string device;
    std::string precision;
    std::int64_t optim_level = 0;
    std::vector<std::int64_t> batch_sizes;
    std::vector<std::string> files;
    std::map<std::string, Option> options;
    std::map<std::string, std::string> toolchain;
    std::vector<std::string> operators_outside;
    Tolerance tolerance;
    Agreement agreement;
    std::string target_digest;
};

/// One real image and every stage it must pass through.
///
/// `decoded_sha256` and `crop_sha256` are of the uint8 RGB pixels [H, W, 3], `tensor_sha256` of the
/// float32 [3, S, S], `logits_sha256` of the float32 [classes], all little-endian and row-major.
/// `margin` is the first logit less the second.
struct Golden {
    std::string source;
    std::string crop;
    std::string logits;
    std::int64_t width = 0;
    std::int64_t height = 0;
    std::string decoded_sha256;
    std::string crop_sha256;
    std::string tensor_sha256;
    std::string logits_sha256;
    std::int64_t top1 = 0;
    std::int64_t top2 = 0;
    double margin = 0;
    std::string credit;
};

/// A published figure for this variant and preprocessing. Never a measured one.
struct PublishedAccuracy {
    std::string source;
    double top1 = 0;
    std::optional<double> top5;
};

/// A published speed of this variant, in images a second. Never a measured one.
struct PublishedSpeed {
    std::string source;
    std::string device;
    std::int64_t batch_size = 0;
    double fps = 0;
};

/// The published figures to show beside measured ones.
struct Expected {
    std::vector<PublishedAccuracy> accuracy;
    std::vector<PublishedSpeed> speed;
};

/// What built the bundle.
struct Toolchain {
    std::string created;
    std::string machine;
    std::string python;
    std::map<std::string, std::string> packages;
    std::string packages_digest;
    std::string command;
};

/// Everything a bundle says.
struct Manifest {
    std::string format;
    std::int64_t format_version = 0;
    std::string name;
    std::string version;
    std::string manifest_digest;
    std::string content_digest;
    Source source;
    Architecture model;
    std::array<Tensor, 1> inputs;
    std::array<Tensor, 1> outputs;
    Preprocess preprocess;
    std::vector<Artifact> artifacts;
    std::vector<Weight> weights;
    std::vector<Target> targets;
    std::vector<Golden> goldens;
    std::vector<AccuracyRecord> accuracy;
    std::vector<PerformanceRecord> performance;
    std::vector<GateRecord> gates;
    std::vector<LevelRecord> levels;
    Expected expected;
    Toolchain toolchain;

    /// Returns the artifact at `path`, which the manifest is known to hold.
    [[nodiscard]] const Artifact& artifact(std::string_view path) const;
};

/// Reads and checks a manifest.
///
/// The bytes are judged in an order that never lets a later step see what an earlier one refused:
/// JSON (strict), format and version, the digest of the bytes, types and values, what fields say of
/// each other, and last the digests over content.
///
/// \param where What errors name as the manifest: its path.
/// \throws Error With the code and the path of the field at fault.
Manifest parse_manifest(std::string_view data, const std::string& where = "manifest.json");

}  // namespace vitaie::detail

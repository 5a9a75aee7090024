/// A loaded bundle: images in, labels and probabilities out.
///
///     const Model model(Bundle::open("bundles/vit_base_patch16_224"), "auto", {});
///     for (const Prediction& each : model.classify("cat.jpg", 5)) { … each.label->name … }
///
/// The numbers are those of runtime/vitaie/runtime/_model.py, the order of classes with equal
/// logits among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bundle.hpp"
#include "engine.hpp"
#include "image.hpp"
#include "labels.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

/// An image: a file by its path, the bytes of a JPEG or PNG file, or pixels. Nothing of it is kept.
using Input = std::variant<std::string, Bytes, ImageView>;

/// Writes what a model sees of an image: float32 [3, S, S], S the crop's size.
///
/// \throws Error The image cannot be read, is broken, or has too many pixels.
void preprocess_input(const Input& image, const Preprocess& spec, float* out);

/// One class of an image; the probability is of the softmax.
struct Prediction {
    std::int64_t index;
    const Label* label;  ///< the model's
    double probability;
};

/// Returns the `k` classes with the largest logits, or all, the largest first. Of equal logits the
/// lower class comes first.
///
/// \param logits float32 [classes], all finite.
std::vector<Prediction> best(const float* logits, const std::vector<Label>& labels, std::size_t k);

/// Runs an engine on a batch, float32 [count, 3, S, S], and returns float32 [count, classes].
///
/// \throws Error As `Engine::run`, or a logit is not finite.
std::vector<float> run(const Engine& engine, const float* batch, std::int64_t count,
                       const Manifest& manifest);

/// A bundle that was opened, checked to the last byte, and made ready. Safe to call from several
/// threads. Nothing of the bundle's files is needed any more.
class Model {
  public:
    /// \param target A target's id, `cpu` for short, or `auto`.
    /// \throws Error The bundle is not what its manifest says, has no such target, or the target
    ///     cannot run here.
    Model(const Bundle& bundle, std::string_view target, const EngineOptions& options);

    [[nodiscard]] const Manifest& manifest() const { return manifest_; }
    [[nodiscard]] const Target& target() const { return target_; }
    /// Returns how many numbers a tensor has: 3 * S * S.
    [[nodiscard]] std::size_t tensor_size() const;
    [[nodiscard]] std::size_t classes() const { return labels_.size(); }

    /// As `preprocess_input`.
    void preprocess(const Input& image, float* out) const;

    /// Returns the logits, float32 [count, classes], of a batch, float32 [count, 3, S, S].
    ///
    /// \throws Error `E_BATCH` it is empty, or the engine fails on numbers that are not finite; else
    ///     as `run`.
    [[nodiscard]] std::vector<float> logits(const float* batch, std::int64_t count) const;

    /// Returns the `k` most probable classes of an image.
    ///
    /// \throws Error As `preprocess` and `logits`; `E_ARGUMENT` when `k` is 0.
    [[nodiscard]] std::vector<Prediction> classify(const Input& image, std::size_t k) const;

    /// Gives the `k` most probable classes of each image, in their order, to `give`, in the thread
    /// of the caller.
    ///
    /// The engine works on one batch while the next are decoded on a pool of threads; a few batches
    /// are held, however many images there are. An image that cannot be used throws when its turn
    /// comes, after all before it were given.
    void classify_all(const std::vector<Input>& images, std::size_t k, std::size_t batch_size,
                      const std::function<void(std::vector<Prediction>)>& give) const;

  private:
    Manifest manifest_;
    Target target_;
    std::unique_ptr<const Engine> engine_;
    std::vector<Label> labels_;
};

}  // namespace vitaie::detail

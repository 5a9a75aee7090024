/// vitaie in C++17: bundles on devices, with no Python and the same bits.
///
///     vitaie::Bundle bundle = vitaie::Bundle::open("bundles/vit_base_patch16_224");
///     vitaie::Model model = bundle.load();
///     for (const vitaie::Prediction& each : model.classify("cat.jpg", 5)) {
///         std::cout << each.probability << ' ' << each.label << '\n';
///     }
///
/// All of it lies in this header, over the C functions of vitaie.h, so a program may be compiled by
/// another compiler than the library, with either of GCC's C++ ABIs. Bundle and Model are moved and
/// not copied, and may be used by several threads at once. What fails throws `vitaie::Error`.
#ifndef VITAIE_VITAIE_HPP
#define VITAIE_VITAIE_HPP

#include <vitaie/vitaie.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vitaie {

/// What went wrong. `what()` is one line: code, where, what, expected, got, what to do.
class Error : public std::runtime_error {
  public:
    /// Takes an error over, and frees it.
    explicit Error(vitaie_error* error) : Error(std::unique_ptr<vitaie_error, Free>(error)) {}

    /// Its code, such as "E_IMAGE_BROKEN": the same as Python's.
    [[nodiscard]] const std::string& code() const noexcept { return code_; }
    /// What a command exits with: 1 the bundle, 2 any other input, 5 disk or memory, 6 not available.
    [[nodiscard]] int exit_code() const noexcept { return exit_code_; }
    /// The file, folder or argument at fault.
    [[nodiscard]] const std::string& where() const noexcept { return where_; }
    /// The place inside it, such as "artifacts[2].size"; empty when there is none.
    [[nodiscard]] const std::string& field() const noexcept { return field_; }
    /// What to do; empty when there is nothing to say.
    [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

  private:
    struct Free {
        void operator()(vitaie_error* error) const { vitaie_error_free(error); }
    };
    explicit Error(const std::unique_ptr<vitaie_error, Free>& error)
        : std::runtime_error(vitaie_error_message(error.get())),
          code_(vitaie_error_code(error.get())),
          exit_code_(vitaie_error_exit_code(error.get())),
          where_(vitaie_error_where(error.get())),
          field_(vitaie_error_field(error.get())),
          hint_(vitaie_error_hint(error.get())) {}

    std::string code_;
    int exit_code_;
    std::string where_;
    std::string field_;
    std::string hint_;
};

/// Throws an error that a C function returned, if it did.
inline void check(vitaie_error* error) {
    if (error != nullptr) {
        throw Error(error);
    }
}

/// The order of a pixel's three bytes.
enum class PixelOrder { RGB = VITAIE_RGB, BGR = VITAIE_BGR };

/// A camera's frame, 3 bytes a pixel, that someone else owns: all of `stride * (height - 1) + 3 *
/// width` bytes at `data` may be read.
struct ImageView {
    const std::uint8_t* data = nullptr;
    std::int64_t width = 0;   ///< pixels
    std::int64_t height = 0;  ///< pixels
    std::int64_t stride = 0;  ///< bytes from one row to the next, at least 3 * width
    PixelOrder order = PixelOrder::RGB;
};

/// Bytes that someone else owns: those of a JPEG or PNG file.
struct BytesView {
    const void* data = nullptr;
    std::size_t size = 0;
};

/// An image, made of a path, of a file's bytes, or of a frame; these stay the caller's and must live
/// as long as it.
class Image {
  public:
    Image(const char* path) : image_(vitaie_image_path(path)) {}  // NOLINT: a conversion
    Image(const std::string& path) : Image(path.c_str()) {        // NOLINT
        image_.size = path.size();                                // a NUL inside is refused
    }
    Image(const std::filesystem::path& path) : Image(path.native()) {}              // NOLINT
    Image(BytesView bytes) : image_(vitaie_image_bytes(bytes.data, bytes.size)) {}  // NOLINT
    Image(const ImageView& view)                                                    // NOLINT
        : image_(vitaie_image_pixels(view.data, size_of(view), view.width, view.height, view.stride,
                                     static_cast<std::int32_t>(view.order))) {}

    [[nodiscard]] const vitaie_image& c() const noexcept { return image_; }

  private:
    /// The bytes that a view says there are; 0 for one that is refused for its sides anyway.
    static std::size_t size_of(const ImageView& view) {
        constexpr std::int64_t most = std::int64_t{1} << 31;
        const bool is_plain = view.width > 0 && view.width < most && view.height > 0 &&
                              view.height < most && view.stride > 0 && view.stride < most;
        return is_plain ? static_cast<std::size_t>(view.stride) *
                                  static_cast<std::size_t>(view.height - 1) +
                              3 * static_cast<std::size_t>(view.width)
                        : 0;
    }

    vitaie_image image_;
};

/// A batch that someone else owns: float32 [count, 3, S, S], `size` numbers in all.
struct TensorView {
    const float* data = nullptr;
    std::size_t size = 0;
};

/// One class of an image; the probability is of the softmax. `id` is the wnid for ImageNet.
struct Prediction {
    std::int64_t index = 0;
    double probability = 0;
    std::string id;
    std::string label;
};

/// How to load a model.
struct LoadOptions {
    std::string target = "auto";  ///< a target's id, or "auto" for the best that can run here
    std::int32_t threads = 0;     ///< of the engine, for the whole process; 0 for its own choice
    std::int32_t device_id = 0;   ///< which device, for a target on one; one process has one device
};

/// A bundle that was checked to the last byte, in an engine. Made by `Bundle::load`. One that was
/// moved from has no classes, and throws `E_ARGUMENT`.
class Model {
  public:
    /// Takes a handle over.
    explicit Model(vitaie_model* model) : model_(model) {}

    /// The target that runs.
    [[nodiscard]] std::string target() const { return vitaie_model_target(model_.get()); }
    /// S: what the model sees of an image is float32 [3, S, S].
    [[nodiscard]] std::int64_t image_size() const { return vitaie_model_image_size(model_.get()); }
    /// How many classes the model tells apart.
    [[nodiscard]] std::int64_t classes() const { return vitaie_model_classes(model_.get()); }

    /// Returns what the model sees of an image: float32 [3, S, S], row-major.
    [[nodiscard]] std::vector<float> preprocess(const Image& image) const {
        std::vector<float> tensor(tensor_size());
        check(vitaie_model_preprocess(model_.get(), &image.c(), tensor.data(), tensor.size()));
        return tensor;
    }

    /// Returns the logits, float32 [count, classes], of a batch of any count.
    [[nodiscard]] std::vector<float> logits(TensorView batch) const {
        const auto classes = static_cast<std::size_t>(this->classes());
        const std::size_t each = tensor_size();
        std::vector<float> result(each == 0 ? 0 : batch.size / each * classes);
        check(vitaie_model_logits(model_.get(), batch.data, batch.size, result.data(),
                                  result.size()));
        return result;
    }
    [[nodiscard]] std::vector<float> logits(const std::vector<float>& batch) const {
        return logits(TensorView{batch.data(), batch.size()});
    }

    /// Returns the `k` most probable classes of an image, the first the most probable.
    [[nodiscard]] std::vector<Prediction> classify(const Image& image, std::size_t k = 5) const {
        std::vector<vitaie_prediction> found(room(k));
        std::size_t count = 0;
        check(vitaie_model_classify(model_.get(), &image.c(), k, found.data(), &count));
        return taken(found.data(), count);
    }

    /// Returns the `k` most probable classes of each image. The engine works on one batch while the
    /// next are decoded on a pool of threads. The first image that cannot be used throws.
    [[nodiscard]] std::vector<std::vector<Prediction>> classify(const std::vector<Image>& images,
                                                                std::size_t k = 5,
                                                                std::size_t batch_size = 1) const {
        std::vector<vitaie_image> inputs;
        for (const Image& image : images) {
            inputs.push_back(image.c());
        }
        const std::size_t each = room(k);
        std::vector<vitaie_prediction> found(inputs.size() * each);
        std::size_t done = 0;
        check(vitaie_model_classify_batch(model_.get(), inputs.data(), inputs.size(), k, batch_size,
                                          found.data(), &done));
        std::vector<std::vector<Prediction>> result;
        for (std::size_t index = 0; index < done; ++index) {
            result.push_back(taken(found.data() + index * each, each));
        }
        return result;
    }

  private:
    [[nodiscard]] std::size_t tensor_size() const {
        return static_cast<std::size_t>(3 * image_size() * image_size());
    }
    [[nodiscard]] std::size_t room(std::size_t k) const {
        const auto all = static_cast<std::size_t>(classes());
        return k < all ? k : all;
    }
    static std::vector<Prediction> taken(const vitaie_prediction* found, std::size_t count) {
        std::vector<Prediction> result;
        for (std::size_t index = 0; index < count; ++index) {
            const vitaie_prediction& each = found[index];
            result.push_back({each.index, each.probability, each.id, each.label});
        }
        return result;
    }

    struct Free {
        void operator()(vitaie_model* model) const { vitaie_model_free(model); }
    };
    std::unique_ptr<vitaie_model, Free> model_;
};

/// An open bundle: its manifest, which was checked, and its files, which were opened.
class Bundle {
  public:
    /// Opens a version's folder, or the newest version in a folder of such.
    [[nodiscard]] static Bundle open(const std::filesystem::path& path) {
        vitaie_bundle* bundle = nullptr;
        vitaie::check(vitaie_bundle_open(path.c_str(), &bundle));
        return Bundle(bundle);
    }
    /// Takes a handle over.
    explicit Bundle(vitaie_bundle* bundle) : bundle_(bundle) {}

    [[nodiscard]] std::string name() const { return vitaie_bundle_name(bundle_.get()); }
    /// The version, X.Y.Z.
    [[nodiscard]] std::string version() const { return vitaie_bundle_version(bundle_.get()); }
    /// The content digest: which model it is, wherever it was built.
    [[nodiscard]] std::string digest() const { return vitaie_bundle_digest(bundle_.get()); }
    /// The folder of the version.
    [[nodiscard]] std::filesystem::path folder() const {
        return vitaie_bundle_folder(bundle_.get());
    }
    /// The text of manifest.json, a JSON object that was checked. It lives as long as the bundle.
    [[nodiscard]] std::string_view manifest() const {
        std::size_t size = 0;
        const char* text = vitaie_bundle_manifest(bundle_.get(), &size);
        return {text, size};
    }
    /// S: what the model sees of an image is float32 [3, S, S].
    [[nodiscard]] std::int64_t image_size() const {
        return vitaie_bundle_image_size(bundle_.get());
    }
    /// How many classes the model tells apart.
    [[nodiscard]] std::int64_t classes() const { return vitaie_bundle_classes(bundle_.get()); }

    /// Checks the digest of every file, in parallel. Loading a model does so too.
    void check() const { vitaie::check(vitaie_bundle_check(bundle_.get())); }

    /// Returns what the model sees of an image: float32 [3, S, S], row-major. No engine is needed.
    [[nodiscard]] std::vector<float> preprocess(const Image& image) const {
        std::vector<float> tensor(static_cast<std::size_t>(3 * image_size() * image_size()));
        vitaie::check(
            vitaie_bundle_preprocess(bundle_.get(), &image.c(), tensor.data(), tensor.size()));
        return tensor;
    }

    /// Checks every byte and loads the model, which does not need the bundle any more.
    [[nodiscard]] Model load(const LoadOptions& options = {}) const {
        const vitaie_load_options chosen{sizeof chosen, options.target.c_str(), options.threads,
                                         options.device_id};
        vitaie_model* model = nullptr;
        vitaie::check(vitaie_bundle_load(bundle_.get(), &chosen, &model));
        return Model(model);
    }

  private:
    struct Free {
        void operator()(vitaie_bundle* bundle) const { vitaie_bundle_free(bundle); }
    };
    std::unique_ptr<vitaie_bundle, Free> bundle_;
};

}  // namespace vitaie

#endif

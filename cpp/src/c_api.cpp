// The C interface, over the library's own types. Every function that may fail is a `guarded` one:
// nothing is thrown across it.
#include <vitaie/vitaie.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "error.hpp"
#include "model.hpp"

using vitaie::detail::Bundle;
using vitaie::detail::Bytes;
using vitaie::detail::Code;
using vitaie::detail::Error;
using vitaie::detail::ImageView;
using vitaie::detail::Input;
using vitaie::detail::Model;
using vitaie::detail::PixelOrder;
using vitaie::detail::Prediction;

struct vitaie_error {
    /// Nothing when there was no memory for even that.
    std::optional<Error> error;
};

struct vitaie_bundle {
    Bundle bundle;
};

struct vitaie_model {
    Model model;
};

namespace {

// What is returned when there is no memory for an error.
vitaie_error no_memory{std::nullopt};
constexpr const char* no_memory_line = "E_MEMORY: vitaie: there is not enough memory.";

vitaie_error* made(const Error& error) noexcept {
    try {
        return new vitaie_error{error};
    } catch (...) {
        return &no_memory;
    }
}

/// Runs `act`; returns what it throws, or null.
template <class Act>
vitaie_error* guarded(Act act) noexcept {
    try {
        act();
        return nullptr;
    } catch (const Error& error) {
        return made(error);
    } catch (const std::bad_alloc&) {
        return &no_memory;
    } catch (const std::system_error& error) {  // no more threads
        try {
            return made(Error(Code::E_MEMORY, "vitaie").got(error.what()));
        } catch (...) {
            return &no_memory;
        }
    }
    // Anything else is a bug of ours: noexcept ends the process where it is, rather than let it run
    // on in a state that nobody knows.
}

void check_pointer(const void* pointer, const char* name) {
    if (pointer == nullptr) {
        throw Error(Code::E_ARGUMENT, name).got("NULL");
    }
}

void check_size(const char* name, std::size_t expected, std::size_t got) {
    if (expected != got) {
        throw Error(Code::E_ARGUMENT, name)
            .expected("room for " + std::to_string(expected) + " numbers")
            .got(std::to_string(got));
    }
}

/// Room for no class may be a null pointer: what is wrong then is the number.
void check_top_k(std::size_t top_k) {
    if (top_k == 0) {
        throw Error(Code::E_ARGUMENT, "top_k").expected("at least 1").got(0);
    }
}

/// A frame's view, after it was seen to end within the bytes that the caller gave.
ImageView view(const vitaie_image& image) {
    const ImageView frame{static_cast<const std::uint8_t*>(image.data), image.width, image.height,
                          image.stride,
                          image.order == VITAIE_BGR ? PixelOrder::bgr : PixelOrder::rgb};
    if (image.order != VITAIE_RGB && image.order != VITAIE_BGR) {
        throw Error(Code::E_IMAGE_ARRAY, "image array").field("order").got(image.order);
    }
    vitaie::detail::check_view(frame);
    // The sides are at most 2^26 here, and the stride at least three of them.
    const std::size_t last = static_cast<std::size_t>(frame.height) - 1;
    const std::size_t row = 3 * static_cast<std::size_t>(frame.width);
    const auto stride = static_cast<std::size_t>(frame.stride);
    const bool fits = image.size >= row && (last == 0 || (image.size - row) / last >= stride);
    if (!fits) {
        throw Error(Code::E_IMAGE_ARRAY, "image array")
            .expected(std::to_string(frame.height) + " rows of " + std::to_string(stride) +
                      " bytes")
            .got(std::to_string(image.size) + " bytes");
    }
    return frame;
}

Input input(const vitaie_image& image) {
    if (image.struct_size < sizeof(vitaie_image)) {
        throw Error(Code::E_ARGUMENT, "image")
            .field("struct_size")
            .expected(static_cast<std::int64_t>(sizeof(vitaie_image)))
            .got(std::to_string(image.struct_size));
    }
    check_pointer(image.data, "image");
    switch (image.kind) {
        case VITAIE_IMAGE_PATH:
            return std::string(static_cast<const char*>(image.data), image.size);
        case VITAIE_IMAGE_BYTES:
            return Bytes{static_cast<const std::uint8_t*>(image.data), image.size};
        case VITAIE_IMAGE_PIXELS:
            return view(image);
        default:
            throw Error(Code::E_ARGUMENT, "image").field("kind").got(image.kind);
    }
}

std::size_t tensor_size(const vitaie::detail::Manifest& manifest) {
    return static_cast<std::size_t>(3 * manifest.preprocess.crop.size *
                                    manifest.preprocess.crop.size);
}

void preprocess(const vitaie::detail::Manifest& manifest, const vitaie_image* image, float* tensor,
                std::size_t size) {
    check_pointer(image, "image");
    check_pointer(tensor, "tensor");
    check_size("tensor", tensor_size(manifest), size);
    vitaie::detail::preprocess_input(input(*image), manifest.preprocess, tensor);
}

void copy(const std::vector<Prediction>& from, vitaie_prediction* to) {
    std::transform(from.begin(), from.end(), to, [](const Prediction& each) {
        return vitaie_prediction{each.index, each.probability, each.label->id.c_str(),
                                 each.label->name.c_str()};
    });
}

/// A text of an error, or what an error without memory says instead.
template <class Text>
const char* text_of(const vitaie_error* error, Text text, const char* otherwise) {
    return error != nullptr && error->error ? text(*error->error) : otherwise;
}

}  // namespace

const char* vitaie_version(void) {
    return VITAIE_VERSION;
}

int32_t vitaie_abi_version(void) {
    return VITAIE_ABI_VERSION;
}

const char* vitaie_error_message(const vitaie_error* error) {
    return text_of(error, [](const Error& each) { return each.line().c_str(); }, no_memory_line);
}

const char* vitaie_error_code(const vitaie_error* error) {
    // The names are literals, each with its NUL.
    return text_of(error, [](const Error& each) { return each.name().data(); }, "E_MEMORY");
}

int32_t vitaie_error_exit_code(const vitaie_error* error) {
    return error != nullptr && error->error ? error->error->exit_code() : 5;
}

const char* vitaie_error_where(const vitaie_error* error) {
    return text_of(error, [](const Error& each) { return each.where().c_str(); }, "vitaie");
}

const char* vitaie_error_field(const vitaie_error* error) {
    return text_of(error, [](const Error& each) { return each.field().c_str(); }, "");
}

const char* vitaie_error_expected(const vitaie_error* error) {
    return text_of(
        error,
        [](const Error& each) { return each.expected() ? each.expected()->c_str() : nullptr; },
        nullptr);
}

const char* vitaie_error_got(const vitaie_error* error) {
    return text_of(
        error, [](const Error& each) { return each.got() ? each.got()->c_str() : nullptr; },
        nullptr);
}

const char* vitaie_error_hint(const vitaie_error* error) {
    return text_of(error, [](const Error& each) { return each.hint().c_str(); }, "");
}

void vitaie_error_free(vitaie_error* error) {
    if (error != &no_memory) {
        delete error;
    }
}

vitaie_error* vitaie_bundle_open(const char* path, vitaie_bundle** bundle) {
    return guarded([&] {
        check_pointer(path, "path");
        check_pointer(bundle, "bundle");
        *bundle = new vitaie_bundle{Bundle::open(path)};
    });
}

void vitaie_bundle_free(vitaie_bundle* bundle) {
    delete bundle;
}

vitaie_error* vitaie_bundle_check(const vitaie_bundle* bundle) {
    return guarded([&] {
        check_pointer(bundle, "bundle");
        bundle->bundle.check();
    });
}

const char* vitaie_bundle_folder(const vitaie_bundle* bundle) {
    return bundle == nullptr ? "" : bundle->bundle.folder().c_str();
}

const char* vitaie_bundle_name(const vitaie_bundle* bundle) {
    return bundle == nullptr ? "" : bundle->bundle.manifest().name.c_str();
}

const char* vitaie_bundle_version(const vitaie_bundle* bundle) {
    return bundle == nullptr ? "" : bundle->bundle.manifest().version.c_str();
}

const char* vitaie_bundle_digest(const vitaie_bundle* bundle) {
    return bundle == nullptr ? "" : bundle->bundle.manifest().content_digest.c_str();
}

const char* vitaie_bundle_manifest(const vitaie_bundle* bundle, size_t* size) {
    if (size != nullptr) {
        *size = bundle == nullptr ? 0 : bundle->bundle.manifest_text().size();
    }
    return bundle == nullptr ? "" : bundle->bundle.manifest_text().c_str();
}

int64_t vitaie_bundle_image_size(const vitaie_bundle* bundle) {
    return bundle == nullptr ? 0 : bundle->bundle.manifest().preprocess.crop.size;
}

int64_t vitaie_bundle_classes(const vitaie_bundle* bundle) {
    return bundle == nullptr ? 0 : bundle->bundle.manifest().model.classes;
}

vitaie_error* vitaie_bundle_preprocess(const vitaie_bundle* bundle, const vitaie_image* image,
                                       float* tensor, size_t size) {
    return guarded([&] {
        check_pointer(bundle, "bundle");
        preprocess(bundle->bundle.manifest(), image, tensor, size);
    });
}

vitaie_error* vitaie_bundle_load(const vitaie_bundle* bundle, const vitaie_load_options* options,
                                 vitaie_model** model) {
    return guarded([&] {
        check_pointer(bundle, "bundle");
        check_pointer(model, "model");
        const vitaie_load_options defaults{sizeof defaults, nullptr, 0, 0};
        const vitaie_load_options& chosen = options == nullptr ? defaults : *options;
        if (chosen.struct_size < sizeof defaults) {
            throw Error(Code::E_ARGUMENT, "options")
                .field("struct_size")
                .expected(static_cast<std::int64_t>(sizeof defaults))
                .got(std::to_string(chosen.struct_size));
        }
        const char* target = chosen.target == nullptr ? "auto" : chosen.target;
        *model =
            new vitaie_model{Model(bundle->bundle, target, {chosen.threads, chosen.device_id})};
    });
}

void vitaie_model_free(vitaie_model* model) {
    delete model;
}

const char* vitaie_model_target(const vitaie_model* model) {
    return model == nullptr ? "" : model->model.target().id.c_str();
}

int64_t vitaie_model_image_size(const vitaie_model* model) {
    return model == nullptr ? 0 : model->model.manifest().preprocess.crop.size;
}

int64_t vitaie_model_classes(const vitaie_model* model) {
    return model == nullptr ? 0 : model->model.manifest().model.classes;
}

vitaie_error* vitaie_model_preprocess(const vitaie_model* model, const vitaie_image* image,
                                      float* tensor, size_t size) {
    return guarded([&] {
        check_pointer(model, "model");
        preprocess(model->model.manifest(), image, tensor, size);
    });
}

vitaie_error* vitaie_model_logits(const vitaie_model* model, const float* batch, size_t batch_size,
                                  float* logits, size_t logits_size) {
    return guarded([&] {
        check_pointer(model, "model");
        const std::size_t size = model->model.tensor_size();
        if (batch_size == 0 || batch_size % size != 0) {
            throw Error(Code::E_BATCH, "batch")
                .expected("a multiple of " + std::to_string(size) + " numbers")
                .got(std::to_string(batch_size));
        }
        check_pointer(batch, "batch");
        check_pointer(logits, "logits");
        const std::size_t count = batch_size / size;
        check_size("logits", count * model->model.classes(), logits_size);
        const auto found = model->model.logits(batch, static_cast<std::int64_t>(count));
        std::copy(found.begin(), found.end(), logits);
    });
}

vitaie_error* vitaie_model_classify(const vitaie_model* model, const vitaie_image* image,
                                    size_t top_k, vitaie_prediction* predictions, size_t* found) {
    return guarded([&] {
        check_pointer(model, "model");
        check_pointer(image, "image");
        check_top_k(top_k);
        check_pointer(predictions, "predictions");
        check_pointer(found, "found");
        const auto best = model->model.classify(input(*image), top_k);
        copy(best, predictions);
        *found = best.size();
    });
}

vitaie_error* vitaie_model_classify_batch(const vitaie_model* model, const vitaie_image* images,
                                          size_t count, size_t top_k, size_t batch_size,
                                          vitaie_prediction* predictions, size_t* done) {
    if (done != nullptr) {
        *done = 0;
    }
    return guarded([&] {
        check_pointer(model, "model");
        check_pointer(done, "done");
        check_top_k(top_k);
        if (count != 0) {
            check_pointer(images, "images");
            check_pointer(predictions, "predictions");
        }
        const std::size_t k = std::min(top_k, model->model.classes());
        std::vector<Input> inputs;
        std::exception_ptr
            fault;  // of an image that is none; its turn comes as a broken one's does
        for (std::size_t index = 0; index < count && !fault; ++index) {
            try {
                // Elements lie as far apart as the caller's struct is long.
                const auto* place = reinterpret_cast<const char*>(images);
                inputs.push_back(input(*reinterpret_cast<const vitaie_image*>(
                    place + index * std::max(images->struct_size, sizeof(vitaie_image)))));
            } catch (const Error&) {
                fault = std::current_exception();
            }
        }
        model->model.classify_all(inputs, top_k, batch_size, [&](const auto& best) {
            copy(best, predictions + *done * k);
            ++*done;
        });
        if (fault) {
            std::rethrow_exception(fault);
        }
    });
}

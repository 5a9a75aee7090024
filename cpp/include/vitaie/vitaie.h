/// The C interface of the vitaie library: bundles on devices, with no Python.
///
///     vitaie_bundle* bundle = NULL;
///     vitaie_model* model = NULL;
///     vitaie_prediction best[5];
///     size_t found = 0;
///     vitaie_error* error = vitaie_bundle_open("bundles/vit_base_patch16_224", &bundle);
///     if (!error) error = vitaie_bundle_load(bundle, NULL, &model);
///     vitaie_image cat = vitaie_image_path("cat.jpg");
///     if (!error) error = vitaie_model_classify(model, &cat, 5, best, &found);
///     if (error) fprintf(stderr, "%s\n", vitaie_error_message(error));
///     for (size_t i = 0; i < found; ++i) printf("%.4f %s\n", best[i].probability, best[i].label);
///     vitaie_error_free(error);
///     vitaie_model_free(model);
///     vitaie_bundle_free(bundle);
///
/// The rules, for every function here:
/// * What may fail returns an error, or NULL when it did not. An error is the caller's, who reads it
///   and frees it. After an error no output was written, unless the function says so.
/// * A handle that a function hands out is the caller's until its `…_free`. Texts that belong to a
///   handle live as long as it does; all texts are UTF-8 (paths: the system's bytes) and end in NUL.
/// * NULL in a handle's place is `E_ARGUMENT`; what returns a text or a number returns "" or 0 for it.
/// * Handles other than errors may be used by several threads at once, but not while they are freed.
/// * No exception crosses, no C++ type is here, and nothing is printed: any compiler's program may
///   use it, with either of GCC's C++ ABIs.
/// * Structs begin with their own size, so that later versions may add fields at their end. What
///   `VITAIE_ABI_VERSION` 1 has stays as it is.
#ifndef VITAIE_VITAIE_H
#define VITAIE_VITAIE_H

#include <stddef.h>
#include <stdint.h>

#if defined(VITAIE_BUILDING)
#define VITAIE_API __attribute__((visibility("default")))
#else
#define VITAIE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// The interface that this header describes. A library may be newer, and never older.
#define VITAIE_ABI_VERSION 1

/// Returns the library's version, such as "0.1.0". It is static: never to be freed.
VITAIE_API const char* vitaie_version(void);

/// Returns the interface that the library has: at least the header's `VITAIE_ABI_VERSION`.
VITAIE_API int32_t vitaie_abi_version(void);

// Errors

/// What went wrong, with the codes and words of vitaie's Python: docs/bundle-format.md lists them.
typedef struct vitaie_error vitaie_error;

/// Returns all of it on one line: code, where, what, expected, got, what to do.
VITAIE_API const char* vitaie_error_message(const vitaie_error* error);
/// Returns its code, such as "E_IMAGE_BROKEN".
VITAIE_API const char* vitaie_error_code(const vitaie_error* error);
/// Returns what a command exits with: 1 the bundle, 2 any other input, 4 exists, 5 disk or memory,
/// 6 not available here.
VITAIE_API int32_t vitaie_error_exit_code(const vitaie_error* error);
/// Returns the file, folder or argument at fault.
VITAIE_API const char* vitaie_error_where(const vitaie_error* error);
/// Returns the place inside it, such as "artifacts[2].size"; "" when there is none.
VITAIE_API const char* vitaie_error_field(const vitaie_error* error);
/// Returns what should have been there, or NULL.
VITAIE_API const char* vitaie_error_expected(const vitaie_error* error);
/// Returns what was there, or NULL.
VITAIE_API const char* vitaie_error_got(const vitaie_error* error);
/// Returns what to do; "" when there is nothing to say.
VITAIE_API const char* vitaie_error_hint(const vitaie_error* error);
/// Frees an error and its texts. NULL is let be.
VITAIE_API void vitaie_error_free(vitaie_error* error);

// Images

/// How an image is given.
enum { VITAIE_IMAGE_PATH = 0, VITAIE_IMAGE_BYTES = 1, VITAIE_IMAGE_PIXELS = 2 };

/// The order of a pixel's three bytes.
enum { VITAIE_RGB = 0, VITAIE_BGR = 1 };

/// An image: a path, the bytes of a JPEG or PNG file, or pixels. It points to what the caller owns,
/// which is read during the call it is given to, and not kept. Make it with a function below.
typedef struct vitaie_image {
    size_t struct_size;  ///< sizeof(vitaie_image)
    int32_t kind;        ///< VITAIE_IMAGE_PATH, …_BYTES or …_PIXELS
    int32_t order;       ///< of pixels: VITAIE_RGB or VITAIE_BGR
    const void* data;    ///< the path's bytes, the file's, or the first row's first pixel
    size_t size;         ///< bytes at `data`
    int64_t width;       ///< pixels
    int64_t height;      ///< pixels
    int64_t stride;      ///< of pixels: bytes from one row to the next, at least 3 * width
} vitaie_image;

/// Returns the image in a file, JPEG or PNG by its content.
static inline vitaie_image vitaie_image_path(const char* path) {
    vitaie_image image = {sizeof(vitaie_image), VITAIE_IMAGE_PATH, VITAIE_RGB, path, 0, 0, 0, 0};
    while (path != NULL && path[image.size] != '\0') {
        ++image.size;
    }
    return image;
}

/// Returns the image in the bytes of a JPEG or PNG file.
static inline vitaie_image vitaie_image_bytes(const void* data, size_t size) {
    const vitaie_image image = {
        sizeof(vitaie_image), VITAIE_IMAGE_BYTES, VITAIE_RGB, data, size, 0, 0, 0};
    return image;
}

/// Returns the image in a camera's frame: 3 bytes a pixel, in `order`. `size` is of all that may be
/// read at `data`: a frame that would reach past it is refused.
static inline vitaie_image vitaie_image_pixels(const void* data, size_t size, int64_t width,
                                               int64_t height, int64_t stride, int32_t order) {
    const vitaie_image image = {
        sizeof(vitaie_image), VITAIE_IMAGE_PIXELS, order, data, size, width, height, stride};
    return image;
}

// Bundles

/// An open bundle: its manifest, which was checked, and its files, which were opened.
typedef struct vitaie_bundle vitaie_bundle;

/// Opens a bundle, without reading more than its manifest.
///
/// \param path A version's folder, or the folder of its versions, of which the newest is taken.
/// \param bundle Where the handle goes, to be freed with `vitaie_bundle_free`.
VITAIE_API vitaie_error* vitaie_bundle_open(const char* path, vitaie_bundle** bundle);

/// Closes a bundle. Models that were loaded from it stay. NULL is let be.
VITAIE_API void vitaie_bundle_free(vitaie_bundle* bundle);

/// Checks the digest of every file, in parallel. Loading a model does so too.
VITAIE_API vitaie_error* vitaie_bundle_check(const vitaie_bundle* bundle);

/// Returns the folder of the version that was opened. The bundle's.
VITAIE_API const char* vitaie_bundle_folder(const vitaie_bundle* bundle);
/// Returns the bundle's name. The bundle's.
VITAIE_API const char* vitaie_bundle_name(const vitaie_bundle* bundle);
/// Returns the bundle's version, X.Y.Z. The bundle's.
VITAIE_API const char* vitaie_bundle_version(const vitaie_bundle* bundle);
/// Returns the content digest, 64 hexadecimal digits: which model it is, wherever it was built. The
/// bundle's.
VITAIE_API const char* vitaie_bundle_digest(const vitaie_bundle* bundle);
/// Returns the bytes of manifest.json, a JSON object that was checked. The bundle's.
///
/// \param size Where their number goes, without the NUL behind them; may be NULL.
VITAIE_API const char* vitaie_bundle_manifest(const vitaie_bundle* bundle, size_t* size);

/// Returns S: what the model sees of an image is float32 [3, S, S].
VITAIE_API int64_t vitaie_bundle_image_size(const vitaie_bundle* bundle);
/// Returns how many classes the model tells apart.
VITAIE_API int64_t vitaie_bundle_classes(const vitaie_bundle* bundle);

/// Writes what the model sees of an image: float32 [3, S, S], row-major. No engine is needed.
///
/// \param size Numbers that `tensor` has room for: 3 * S * S, or it is an error.
VITAIE_API vitaie_error* vitaie_bundle_preprocess(const vitaie_bundle* bundle,
                                                  const vitaie_image* image, float* tensor,
                                                  size_t size);

// Models

/// How to load a model. All zero but the size is the default.
typedef struct vitaie_load_options {
    size_t struct_size;  ///< sizeof(vitaie_load_options)
    const char* target;  ///< a target's id, or NULL or "auto" for the best that can run here
    int32_t threads;     ///< of the engine, for the whole process; 0 for its own choice
    int32_t device_id;   ///< which device, for a target on one; one process has one device
} vitaie_load_options;

/// A bundle that was checked to the last byte, in an engine.
typedef struct vitaie_model vitaie_model;

/// One class of an image.
typedef struct vitaie_prediction {
    int64_t index;       ///< of the class, in the order of the logits
    double probability;  ///< of the softmax
    const char* id;      ///< such as the wnid, for ImageNet. The model's.
    const char* label;   ///< its name. The model's.
} vitaie_prediction;

/// Checks every byte of a bundle and loads its model.
///
/// \param options How, or NULL for the defaults. Not kept.
/// \param model Where the handle goes, to be freed with `vitaie_model_free`. The bundle may be freed
///     before it.
VITAIE_API vitaie_error* vitaie_bundle_load(const vitaie_bundle* bundle,
                                            const vitaie_load_options* options,
                                            vitaie_model** model);

/// Frees a model and its texts. NULL is let be.
VITAIE_API void vitaie_model_free(vitaie_model* model);

/// Returns the id of the target that runs. The model's.
VITAIE_API const char* vitaie_model_target(const vitaie_model* model);
/// Returns S: what the model sees of an image is float32 [3, S, S].
VITAIE_API int64_t vitaie_model_image_size(const vitaie_model* model);
/// Returns how many classes the model tells apart.
VITAIE_API int64_t vitaie_model_classes(const vitaie_model* model);

/// Writes what the model sees of an image. As `vitaie_bundle_preprocess`.
VITAIE_API vitaie_error* vitaie_model_preprocess(const vitaie_model* model,
                                                 const vitaie_image* image, float* tensor,
                                                 size_t size);

/// Writes the logits, float32 [count, classes], of a batch, float32 [count, 3, S, S], of any count.
///
/// \param batch The tensors, one behind the other.
/// \param batch_size Numbers at `batch`: count * 3 * S * S, or it is an error.
/// \param logits Where they go.
/// \param logits_size Numbers that `logits` has room for: count * classes, or it is an error.
VITAIE_API vitaie_error* vitaie_model_logits(const vitaie_model* model, const float* batch,
                                             size_t batch_size, float* logits, size_t logits_size);

/// Writes the most probable classes of an image, the first the most probable.
///
/// \param top_k How many `predictions` has room for, at least 1.
/// \param found Where it goes how many were written: `top_k`, or all classes when they are fewer.
VITAIE_API vitaie_error* vitaie_model_classify(const vitaie_model* model, const vitaie_image* image,
                                               size_t top_k, vitaie_prediction* predictions,
                                               size_t* found);

/// Writes the most probable classes of each of several images. The engine works on one batch while
/// the next are decoded on a pool of threads.
///
/// \param images The images, as an array.
/// \param count How many they are.
/// \param top_k Classes for each image, at least 1.
/// \param batch_size Images that the engine is given at once, at least 1.
/// \param predictions Room for count * k, where k is `top_k`, or all classes when they are fewer:
///     image i has those from i * k.
/// \param done Where it goes how many images were classified. After an error that is the index of
///     the image at fault, and the predictions of all before it were written.
VITAIE_API vitaie_error* vitaie_model_classify_batch(const vitaie_model* model,
                                                     const vitaie_image* images, size_t count,
                                                     size_t top_k, size_t batch_size,
                                                     vitaie_prediction* predictions, size_t* done);

#ifdef __cplusplus
}
#endif

#endif

/// What libvitaie_torch.so, the one library that links torch, gives to libvitaie.so.
///
///     const VitaieTorchEngine* engine = vitaie_torch_engine();
///
/// Plain C, because torch may have another C++ ABI than everyone else here.
#ifndef VITAIE_TORCH_ENGINE_H
#define VITAIE_TORCH_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Counts changes of this header. Both libraries come from one build; a mixture is refused.
#define VITAIE_TORCH_ENGINE_INTERFACE 2

/// How a call ended. All but `VITAIE_TORCH_DONE` leave a message in the caller's buffer.
enum {
    VITAIE_TORCH_DONE = 0,
    VITAIE_TORCH_FAILED = 1,
    VITAIE_TORCH_NO_MEMORY = 2,
    VITAIE_TORCH_OTHER_LOGITS = 3  ///< the module gave logits of another shape or type
};

/// A caller's memory for what a call ended with.
typedef struct VitaieTorchMessage {
    char* text;         ///< is cut to fit and ends in a NUL
    size_t size;        ///< bytes, at least 1
    const char** step;  ///< is set to the name of the step that failed, which is static
} VitaieTorchMessage;

/// A batch float32 [count, channels, side, side], and where its logits go: [count, classes].
typedef struct VitaieTorchBatch {
    const float* values;
    int64_t count;
    int64_t channels;
    int64_t side;
    float* logits;
    int64_t classes;
} VitaieTorchBatch;

typedef struct VitaieTorchEngine {
    int32_t interface_version;
    const char* built_for;  ///< the version of torch whose headers it was compiled with
    const char* running;    ///< that of the torch that is loaded; empty when it does not say
    /// Makes a module of a TorchScript archive, whose bytes are not needed afterwards.
    ///
    /// \param place Where batches are copied before the module sees them, as torch names it:
    ///     "npu:0". NULL for a module of the CPU.
    /// \param threads Threads of torch, for the whole process; 0 leaves them as they are.
    int (*open)(const void* data, size_t size, const char* place, int32_t threads, void** module,
                VitaieTorchMessage message);
    /// Runs a batch and waits for it: the logits are in the caller's memory when it is done. A
    /// module of the CPU may be run from several threads at once.
    int (*run)(void* module, const VitaieTorchBatch* batch, VitaieTorchMessage message);
    void (*close)(void* module);
} VitaieTorchEngine;

/// The name of the one function of the library, and its type. What it returns is static.
#define VITAIE_TORCH_ENGINE_SYMBOL "vitaie_torch_engine"
typedef const VitaieTorchEngine* (*VitaieTorchEngineFunction)(void);

#ifdef __cplusplus
}
#endif

#endif

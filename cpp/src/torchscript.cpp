// The only file with torch: TorchScript on the CPU and on a device, behind the plain functions of
// torch_engine.h.
//
// What is loaded here was checked before, its bytes by their digest and, for the CPU, its contents by
// torchscript_archive.cpp, since loading TorchScript can run code. What a device adds to torch is in
// a library of its own, which ascend.cpp loads before any module of it.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "thrown.hpp"
#include "torch_engine.h"

namespace {

/// An archive in memory, for torch's own reader.
class Archive final : public caffe2::serialize::ReadAdapterInterface {
  public:
    Archive(const void* data, std::size_t size) : data_(data), size_(size) {}
    std::size_t size() const override { return size_; }
    std::size_t read(std::uint64_t place, void* to, std::size_t count,
                     const char* /*what*/) const override {
        if (place > size_) {
            return 0;
        }
        const std::size_t there = std::min<std::size_t>(count, size_ - place);
        std::memcpy(to, static_cast<const char*>(data_) + place, there);
        return there;
    }

  private:
    const void* data_;
    std::size_t size_;
};

/// The version that the loaded torch names among its build settings; empty when it does not.
std::string running_version() {
    constexpr std::string_view key = "TORCH_VERSION=";
    const std::string settings = at::show_config();
    const std::size_t begin = settings.find(key);
    if (begin == std::string::npos) {
        return "";
    }
    const std::string version = settings.substr(begin + key.size());
    return version.substr(0, version.find_first_not_of("0123456789."));
}

/// A module, and where its batches are copied before it sees them: nowhere on the CPU.
struct Loaded {
    torch::jit::Module module;
    std::unique_ptr<const c10::Device> place;
};

struct OtherLogits : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void say(VitaieTorchMessage message, const char* text) {
    std::strncpy(message.text, text, message.size - 1);
    message.text[message.size - 1] = '\0';
}

/// Runs `act`, and turns what torch throws, or what was loaded into it, into a status: neither
/// documents any exception classes. `act` is given the step's name to keep up to date.
template <class Act>
int guarded(VitaieTorchMessage message, const char* step, Act act) {
    *message.step = step;
    try {
        act(*message.step);
        return VITAIE_TORCH_DONE;
    } catch (const std::bad_alloc& error) {
        say(message, error.what());
        return VITAIE_TORCH_NO_MEMORY;
    } catch (const OtherLogits& error) {
        say(message, error.what());
        return VITAIE_TORCH_OTHER_LOGITS;
    } catch (const c10::Error& error) {
        say(message, error.what_without_backtrace());
    } catch (const std::exception& error) {
        say(message, error.what());
    } catch (...) {
        say(message, ("an exception of the class " + vitaie::detail::class_of_exception()).c_str());
    }
    const bool memory = std::string_view(message.text).find("alloc") != std::string_view::npos;
    return memory ? VITAIE_TORCH_NO_MEMORY : VITAIE_TORCH_FAILED;
}

int open_module(const void* data, std::size_t size, const char* place, std::int32_t threads,
                void** module, VitaieTorchMessage message) {
    return guarded(message, "load", [&](const char*&) {
        if (threads > 0) {
            at::set_num_threads(threads);
        }
        const auto archive = std::make_shared<Archive>(data, size);
        auto loaded = std::make_unique<Loaded>();
        if (place == nullptr) {
            loaded->module = torch::jit::load(archive, c10::Device(c10::kCPU));
        } else {
            // A device has a name in torch once its own library was loaded.
            loaded->place = std::make_unique<const c10::Device>(std::string(place));
            loaded->module = torch::jit::load(archive);
        }
        loaded->module.eval();
        *module = loaded.release();
    });
}

void copy_logits(const at::Tensor& output, const VitaieTorchBatch& batch) {
    const bool fits = output.scalar_type() == at::kFloat && output.dim() == 2 &&
                      output.size(0) == batch.count && output.size(1) == batch.classes;
    if (!fits) {
        throw OtherLogits("logits of another shape or type: " + output.toString());
    }
    std::memcpy(batch.logits, output.data_ptr<float>(),
                sizeof(float) * static_cast<std::size_t>(output.numel()));
}

int run_batch(void* module, const VitaieTorchBatch* batch, VitaieTorchMessage message) {
    return guarded(message, "forward", [&](const char*& step) {
        auto& loaded = *static_cast<Loaded*>(module);
        // torch has no tensors of constant values; the module only reads them.
        const auto input = [&] {
            return torch::from_blob(const_cast<float*>(batch->values),
                                    {batch->count, batch->channels, batch->side, batch->side},
                                    at::kFloat);
        };
        if (loaded.place == nullptr) {
            const c10::InferenceMode guard;
            copy_logits(loaded.module.forward({input()}).toTensor().contiguous(), *batch);
            return;
        }
        const c10::NoGradGuard guard;  // all that is known to be the same on every device
        step = "copy to the device";
        const at::Tensor there = input().to(*loaded.place);
        step = "forward";
        const at::Tensor result = loaded.module.forward({there}).toTensor();
        step = "copy from the device";  // and it waits for the device
        copy_logits(result.to(c10::Device(c10::kCPU)).contiguous(), *batch);
    });
}

void close_module(void* module) {
    delete static_cast<Loaded*>(module);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const VitaieTorchEngine* vitaie_torch_engine() {
    static const std::string running = running_version();
    static const VitaieTorchEngine engine = {VITAIE_TORCH_ENGINE_INTERFACE,
                                             VITAIE_TORCH_VERSION,
                                             running.c_str(),
                                             open_module,
                                             run_batch,
                                             close_module};
    return &engine;
}

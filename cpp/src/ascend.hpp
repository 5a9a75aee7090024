/// The Ascend targets: all that C++ knows of the vendor's library `libtorch_aie.so`, in one place.
///
/// The library adds a device to torch; its package is called `torch_aie` or `mindietorch`. Nothing
/// of it is needed to compile vitaie: it is loaded when a target asks for it, so one build serves
/// hosts with and without a device. The rules are those of runtime/vitaie/runtime/_ascend.py:
///
/// * the library is loaded, and the device set, before any module is parsed;
/// * one thread of the process owns the device; several devices are several processes;
/// * a batch is copied to `npu:ID` and its logits back, and that copy waits for the device;
/// * `finalize` is called once, at the end of the process;
/// * it documents no class of exception: whatever it throws becomes `E_DEVICE`, its message inside.
///
/// docs/ascend.md says what was never run.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine.hpp"

namespace vitaie::detail {

/// The manifest's word for these targets.
inline constexpr std::string_view ascend_backend = "torch_aie";

/// Returns what keeps this machine from running a target: what is missing, or is another.
///
/// Whether a saved module outlives its chip, package or CANN is documented nowhere, so each has to
/// be the one that compiled it; what one side does not say is not held against it.
std::optional<Missing> missing_for_ascend(const Target& target);

/// Returns the vendor's package and CANN, with their versions, as far as they are known.
std::map<std::string, std::string> ascend_packages();

/// Makes the engine of a target that can run here. Its module has one batch size, and takes any
/// batch padded and in pieces.
///
/// \param device_id Which device; the first caller decides for as long as the process lives.
/// \throws Error `E_DEVICE` the device cannot be had or refuses the module; a digest is wrong.
std::unique_ptr<Engine> open_ascend(const Bundle& bundle, const Target& target,
                                    std::int32_t device_id);

/// Gives the device back, after which none can be had in this process. It happens by itself at a
/// process's end; only who leaves by `_exit` calls it before.
void finish_ascend() noexcept;

}  // namespace vitaie::detail

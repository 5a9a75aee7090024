/// libvitaie_torch.so, the one library that links torch: found and loaded when it is first needed.
///
///     const TorchLibrary& torch = torch_library();
///     if (torch.engine == nullptr) { … torch.missing … }
///     const TorchAnswer answer = ask_torch([&](VitaieTorchMessage message) {
///         return torch.engine->run(module, &batch, message);
///     });
#pragma once

#include <string>

#include "engine.hpp"
#include "torch_engine.h"

namespace vitaie::detail {

/// The library, or why there is none. Once loaded it stays: torch registers itself in places that
/// outlive any engine.
struct TorchLibrary {
    const VitaieTorchEngine* engine = nullptr;
    Missing missing = {Code::E_EXTRA_MISSING, ""};
};

/// Returns the library of this build, from the folder of libvitaie.so.
const TorchLibrary& torch_library();

/// Refuses to load torch where its libraries would end the process, for address space is short.
///
/// \throws Error `E_MEMORY`, naming `where`: less than 1 GiB of address space is allowed.
void need_room(const std::string& where);

/// How a call of the library ended.
struct TorchAnswer {
    int status;
    std::string step;  ///< what it was at
    std::string text;  ///< what was thrown; empty when it is done
};

/// Calls a function of the library with memory for its message.
template <class Call>
TorchAnswer ask_torch(Call act) {
    constexpr std::size_t message_size = 1 << 16;  // TorchScript puts stacks around its reasons
    TorchAnswer answer{VITAIE_TORCH_FAILED, "", std::string(message_size, '\0')};
    const char* step = "";
    answer.status = act(VitaieTorchMessage{answer.text.data(), answer.text.size(), &step});
    answer.step = step;
    answer.text.resize(answer.status == VITAIE_TORCH_DONE ? 0 : answer.text.find('\0'));
    return answer;
}

}  // namespace vitaie::detail

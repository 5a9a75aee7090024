/// What a bundle's TorchScript archive may hold: a traced Vision Transformer and nothing else.
///
/// Loading TorchScript runs `__setstate__`, running it runs any operator, and PyTorch takes a
/// tensor's size from the pickle without asking how many bytes there are. So everything is checked
/// first: the zip's layout (one way to read it), the code (word by word), the pickles (name by
/// name, each tensor within its bytes). The verdicts are those of
/// runtime/vitaie/runtime/_torchscript_archive.py.
#pragma once

#include <string>
#include <string_view>

namespace vitaie::detail {

/// Throws unless a TorchScript archive holds only what the builder puts there.
///
/// \throws Error `E_TORCHSCRIPT_UNSAFE`, with the member at fault: the zip could be read in two
///     ways, or a member, an operator, a type or a tensor is not one of a traced Vision
///     Transformer.
void check_archive(std::string_view data, const std::string& where);

}  // namespace vitaie::detail

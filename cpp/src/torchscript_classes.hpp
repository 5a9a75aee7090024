/// The classes that a TorchScript archive's code declares, and the modules that are to be of them.
///
/// The rules and their reasons are those of runtime/vitaie/runtime/_torchscript_classes.py.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "torchscript_pickle.hpp"

namespace vitaie::detail::torchscript {

/// The type of each attribute as the code writes it, by class and by attribute.
using Classes = std::map<std::string, std::map<std::string, std::string>>;

/// Adds the classes that a file of code declares, each of its lines as torch writes it.
///
/// \param module What the file's classes are named in: `__torch__.torch.nn.modules.conv`.
/// \throws Unsafe A line that is part of no class, or a class or attribute twice.
void read_classes(const std::string& module, std::string_view code, Classes& classes);

/// Throws unless a pickle is a module of the classes declared, of all of them, through and through.
///
/// \throws Unsafe It is not a module; an attribute is missing, too many or of another type; a class
///     is not declared, or is that of no module; modules are nested deeper than 16.
void check_module(const Pickle& pickle, const Classes& classes);

/// Throws unless the constants of the code are a tuple of tensors.
///
/// \throws Unsafe They are something else.
void check_constants(const Pickle& pickle);

}  // namespace vitaie::detail::torchscript

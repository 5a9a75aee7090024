// vitaie-use-double: breaks a rule of the vendor's library, for pytest to see that the double keeps it.
//
//   vitaie-use-double RULE LIBRARY MODULE SHAPE
//
// LIBRARY is the double's, MODULE what the double in Python saved, SHAPE its input's: "4,3,32,32". It
// prints what was thrown, or "ok".
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <dlfcn.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

template <class Function>
Function find(const std::string& library, const char* name) {
    void* loaded = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (loaded == nullptr) {
        throw std::runtime_error(::dlerror());
    }
    return reinterpret_cast<Function>(::dlsym(loaded, name));
}

at::Tensor input(const std::string& shape) {
    std::istringstream words(shape);
    std::vector<std::int64_t> sizes;
    for (std::string word; std::getline(words, word, ',');) {
        sizes.push_back(std::stoll(word));
    }
    return at::ones(sizes);
}

void use(const std::string& rule, const std::string& library, const std::string& module,
         const std::string& shape) {
    const at::Tensor x = input(shape);
    if (rule == "without the library") {
        torch::jit::load(module);
        return;
    }
    const auto set_device = find<void (*)(int)>(library, "_ZN9torch_aie10set_deviceEi");
    const auto finalize = find<void (*)()>(library, "_ZN9torch_aie8finalizeEv");
    if (rule == "load before set_device") {
        torch::jit::load(module);
    }
    set_device(0);
    torch::jit::Module loaded = torch::jit::load(module);
    const c10::Device npu("npu:0");
    if (rule == "operator") {
        x.to(npu).add(1);
    } else if (rule == "another device") {
        x.to(c10::Device("npu:1"));
    } else if (rule == "shape") {
        loaded.forward({x.narrow(0, 0, 1).to(npu)});
    } else if (rule == "cpu tensor") {
        loaded.forward({x});
    } else if (rule == "thread") {
        std::exception_ptr thrown;
        std::thread([&] {
            try {
                loaded.forward({x.to(npu)});
            } catch (...) {
                thrown = std::current_exception();
            }
        }).join();
        std::rethrow_exception(thrown);
    } else if (rule == "set_device twice") {
        set_device(1);
    } else if (rule == "without finalize") {
        return;
    } else if (rule == "after finalize") {
        finalize();
        loaded.forward({x.to(npu)});
    } else if (rule == "none") {
        const at::Tensor there = loaded.forward({x.to(npu)}).toTensor();
        there.to(at::kCPU);
    }
    finalize();
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) {
        return 2;
    }
    std::string told = "ok";
    try {
        use(words[1], words[2], words[3], words[4]);
    } catch (const std::exception& error) {
        told = error.what();
    } catch (...) {
        told = "an exception that is none of the standard's";
    }
    std::cout << told << std::endl;
    if (std::string(words[1]) == "without finalize") {
        return 0;
    }
    ::_exit(0);
}

// A strict double of the vendor's libtorch_aie.so: it refuses what the documentation forbids.
//
// It offers `torch_aie::set_device` and `torch_aie::finalize`, registers `npu` with torch, and runs
// what the double in Python (tests/doubles/ascend) compiled and saved: a module that calls operators
// of `aie_double`, which torch does not know where this library is not loaded. So a bundle that was
// compiled by one double is run by the other.
//
// Its version is `double`, and nothing that it does is evidence of what a device does. Where the
// vendor's text is not precise it takes the stricter reading. Tensors on `npu` have memory that only
// a copy can reach; work is done when somebody waits for it, and takes VITAIE_DOUBLE_COST_MS then.
//
//   VITAIE_DOUBLE_PROFILE   t200, rc1 or v100; the last takes tensors on npu alone
//   VITAIE_DOUBLE_FAULT     STEP N: the N-th call of that step fails
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <c10/core/Allocator.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/library.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define AIE_API __attribute__((visibility("default")))

extern "C" AIE_API const int vitaie_tests_double = 1;

namespace aie_double {

constexpr int devices = 2;
constexpr std::size_t header_size = 4096;  // of an engine, before the module that it stands for

// The package documents no class of exception, so each kind of rule breaks with one of its own.
struct DeviceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct FinalizedError {};  // not even one of the standard's

std::string variable(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise : value;
}

/// One process's view of the devices: their rules of order, their work, their faults.
class Machine {
  public:
    const std::string profile = variable("VITAIE_DOUBLE_PROFILE", "t200");

    ~Machine() {
        if (device_ >= 0 && !finalized_) {  // as the vendor's samples warn of
            std::fputs("the process ends without finalize\n", stderr);
            std::abort();
        }
    }

    void step(const std::string& name, bool needs_device = true) {
        if (finalized_) {
            throw FinalizedError();
        }
        if (needs_device && device_ < 0) {
            throw std::logic_error(name + " before set_device");
        }
        if (needs_device && std::this_thread::get_id() != thread_) {
            throw DeviceError(name + " on another thread than set_device");
        }
        std::istringstream fault(variable("VITAIE_DOUBLE_FAULT", "none 0"));
        std::string broken;
        int number = 0;
        fault >> broken >> number;
        if (++calls_[name] == number && broken == name) {
            throw DeviceError(name + ": error code 507018");
        }
    }

    void set_device(int number) {
        step("set_device", false);
        if (number < 0 || number >= devices) {
            throw DeviceError("aclrtSetDevice failed, device " + std::to_string(number) +
                              ", error code 107001");
        }
        if (device_ >= 0) {
            throw std::logic_error("a device is set in this process already");
        }
        device_ = number;
        thread_ = std::this_thread::get_id();
    }

    void finalize() {
        step("finalize");
        finalized_ = true;
    }

    void check_place(const c10::Device& place) {
        if (place.index() != device_) {
            throw DeviceError(place.str() + " is not the device that was set");
        }
    }

    /// Takes work for later, as a stream does.
    void submit(std::function<void()> work) { queue_.push_back(std::move(work)); }

    /// Does what was submitted: whoever does not wait for it has not measured it.
    void drain() {
        while (!queue_.empty()) {
            const auto work = std::move(queue_.front());
            queue_.pop_front();
            const auto cost = std::stoi(variable("VITAIE_DOUBLE_COST_MS", "0"));
            std::this_thread::sleep_for(std::chrono::milliseconds(cost));
            work();
        }
    }

  private:
    int device_ = -1;
    std::thread::id thread_;
    bool finalized_ = false;
    std::map<std::string, int> calls_;
    std::deque<std::function<void()>> queue_;
};

Machine machine;

// Half precision: every operator's result is rounded to 16 bits, and LayerNorm and softmax are the
// operators that they are made of.

at::Tensor rounded(const at::Tensor& value) {
    return value.scalar_type() == at::kFloat ? value.to(at::kHalf).to(at::kFloat) : value;
}

constexpr auto mode = c10::DispatchKey::TESTING_ONLY_GenericMode;

at::Tensor half_layer_norm(const at::Tensor& x, at::IntArrayRef /*shape*/, const at::Tensor& weight,
                           const at::Tensor& bias, double epsilon) {
    const at::Tensor centred = rounded(x - rounded(x.mean(-1, true)));
    const at::Tensor variance = rounded(rounded(centred * centred).mean(-1, true));
    const at::Tensor inverse = rounded(at::rsqrt(rounded(variance + epsilon)));
    return rounded(rounded(rounded(centred * inverse) * weight) + bias);
}

at::Tensor half_softmax(const at::Tensor& x, std::int64_t dimension) {
    const at::Tensor powers = rounded(at::exp(rounded(x - x.amax(dimension, true))));
    return rounded(powers / rounded(powers.sum(dimension, true)));
}

void compute_in_half(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const c10::impl::ExcludeDispatchKeyGuard within(mode);
    const auto arguments = op.schema().arguments().size();
    const auto begin = stack->end() - static_cast<std::ptrdiff_t>(arguments);
    for (auto value = begin; value != stack->end(); ++value) {
        if (value->isTensor() && value->toTensor().defined()) {
            *value = rounded(value->toTensor());
        }
    }
    const std::string& name = op.schema().name();
    if (name == "aten::layer_norm") {
        const at::Tensor result =
            half_layer_norm(begin[0].toTensor(), begin[1].toIntVector(), begin[2].toTensor(),
                            begin[3].toTensor(), begin[4].toDouble());
        stack->erase(begin, stack->end());
        stack->emplace_back(result);
        return;
    }
    if (name == "aten::softmax") {
        const at::Tensor result = half_softmax(begin[0].toTensor(), begin[1].toInt());
        stack->erase(begin, stack->end());
        stack->emplace_back(result);
        return;
    }
    op.callBoxed(stack);
    const auto results = static_cast<std::ptrdiff_t>(op.schema().returns().size());
    for (auto value = stack->end() - results; value != stack->end(); ++value) {
        if (value->isTensor()) {
            *value = rounded(value->toTensor());
        }
    }
}

// Tensors on the device

/// Memory of the host's, which passes for the device's.
class Memory final : public c10::Allocator {
  public:
#if VITAIE_TORCH_NUMBER >= 203
    c10::DataPtr allocate(std::size_t size) override { return take(size); }
    void copy_data(void* to, const void* from, std::size_t count) const override {
        default_copy_data(to, from, count);
    }
#else
    c10::DataPtr allocate(std::size_t size) const override { return take(size); }
#endif

  private:
    static c10::DataPtr take(std::size_t size) {
        void* data = std::malloc(size + 1);
        return {data, data, &std::free, c10::Device(c10::DeviceType::PrivateUse1, current)};
    }

  public:
    inline static thread_local c10::DeviceIndex current = 0;
};

Memory memory;
constexpr c10::DispatchKeySet npu_keys(c10::DispatchKey::PrivateUse1);

at::Tensor on_device(at::IntArrayRef size, c10::ScalarType dtype, c10::Device place) {
    Memory::current = place.index();
    return at::detail::empty_generic(size, &memory, npu_keys, dtype, c10::MemoryFormat::Contiguous);
}

c10::Device place_of(const c10::optional<c10::Device>& place) {
    c10::Device found = place.value_or(c10::Device(c10::DeviceType::PrivateUse1, 0));
    if (!found.has_index()) {
        found.set_index(0);
    }
    machine.check_place(found);
    return found;
}

at::Tensor empty(at::IntArrayRef size, c10::optional<c10::ScalarType> dtype,
                 c10::optional<c10::Layout> /*layout*/, c10::optional<c10::Device> place,
                 c10::optional<bool> /*pinned*/, c10::optional<c10::MemoryFormat> /*format*/) {
    return on_device(size, dtype.value_or(at::kFloat), place_of(place));
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         c10::optional<c10::ScalarType> dtype,
                         c10::optional<c10::Layout> /*layout*/, c10::optional<c10::Device> place,
                         c10::optional<bool> /*pinned*/) {
    Memory::current = place_of(place).index();
    return at::detail::empty_strided_generic(size, stride, &memory, npu_keys,
                                             dtype.value_or(at::kFloat));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool /*non_blocking*/) {
    machine.step("copy");
    if (!from.is_contiguous() || !to.is_contiguous() || from.sizes() != to.sizes() ||
        from.scalar_type() != to.scalar_type()) {
        throw std::invalid_argument("a copy to or from the device changes nothing else");
    }
    for (const at::Tensor* each : {&from, &to}) {
        if (each->device().type() == c10::DeviceType::PrivateUse1) {
            machine.check_place(each->device());
        }
    }
    machine.drain();
    std::memcpy(to.data_ptr(), from.data_ptr(), from.nbytes());
    return to;
}

void refuse_operator(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
    throw std::logic_error("an npu tensor can only be copied: " + op.schema().name());
}

// Compiled modules

/// What a compiled module holds: a tensor of bytes, as the double in Python made it.
struct Loaded {
    at::Tensor data;  // kept, so that its address is nobody else's
    std::vector<std::int64_t> shape;
    bool is_half;
    torch::jit::Module module;
    std::int64_t classes;

    at::Tensor compute(const at::Tensor& x) {
        const c10::NoGradGuard no_grad;
        if (!is_half) {
            return module.forward({x}).toTensor().contiguous();
        }
        const c10::impl::IncludeDispatchKeyGuard rounding(mode);
        return module.forward({x}).toTensor();
    }
};

Loaded& known(const at::Tensor& engine) {
    static auto& engines = *new std::map<const void*, Loaded>;  // torch may end before it would
    const auto found = engines.find(engine.data_ptr());
    if (found != engines.end()) {
        return found->second;
    }
    const std::string bytes(static_cast<const char*>(engine.data_ptr()),
                            static_cast<std::size_t>(engine.numel()));
    const auto header = nlohmann::json::parse(bytes.substr(0, header_size));
    const auto profile = header.at("profile").get<std::string>();
    if (profile != machine.profile) {
        throw std::invalid_argument("an engine of another version, " + profile);
    }
    std::istringstream source(bytes.substr(header_size));
    torch::jit::Module module = torch::jit::load(source, c10::Device(c10::kCPU));
    const auto shape = header.at("shape").get<std::vector<std::int64_t>>();
    const auto precision = header.at("precision").get<std::string>();
    const c10::NoGradGuard no_grad;
    const std::int64_t classes = module.forward({at::zeros(shape)}).toTensor().size(1);
    const bool is_half = precision == "FP16" || precision == "PREF_FP16";
    return engines.emplace(engine.data_ptr(), Loaded{engine, shape, is_half, module, classes})
        .first->second;
}

bool refuses_engine(const at::Tensor& engine) {
    machine.step("load");
    known(engine);
    return false;
}

bool is_on_npu(const at::Tensor& x) {
    return x.device().type() == c10::DeviceType::PrivateUse1;
}

void check_input_place(const at::Tensor& x) {
    if (machine.profile == "v100" && !is_on_npu(x)) {
        throw std::invalid_argument("the input must be on npu, got cpu");
    }
}

bool refuses_input(const at::Tensor& engine, const at::Tensor& x) {
    machine.step("forward");
    const Loaded& compiled = known(engine);
    if (x.sizes() != c10::IntArrayRef(compiled.shape) || x.scalar_type() != at::kFloat) {
        std::ostringstream message;
        message << "MIE08E000001: expected " << c10::IntArrayRef(compiled.shape) << " float32, got "
                << x.sizes() << " " << x.scalar_type();
        throw std::invalid_argument(message.str());
    }
    check_input_place(x);
    return false;
}

bool refuses_on_host(const at::Tensor& x) {
    machine.step("forward");
    check_input_place(x);
    return false;
}

std::string reason(const at::Tensor& /*x*/) {
    return "";  // what refuses here throws
}

/// The bytes of a tensor on the device as a tensor of the host's.
at::Tensor numbers_of(const at::Tensor& x) {
    return at::from_blob(x.data_ptr(), x.sizes(), x.options().device(c10::kCPU)).clone();
}

at::Tensor execute(const at::Tensor& engine, const at::Tensor& x) {
    Loaded& compiled = known(engine);
    if (!is_on_npu(x)) {
        machine.submit([] {});
        machine.drain();
        return compiled.compute(x);
    }
    const at::Tensor result =
        on_device({compiled.shape.front(), compiled.classes}, at::kFloat, x.device());
    machine.submit([&compiled, x, result] {
        const at::Tensor numbers = compiled.compute(numbers_of(x)).contiguous();
        std::memcpy(result.data_ptr(), numbers.data_ptr(), numbers.nbytes());
    });
    return result;
}

at::Tensor to_host(const at::Tensor& x) {
    machine.drain();
    return is_on_npu(x) ? numbers_of(x) : x.clone();
}

at::Tensor to_npu(const at::Tensor& x, const at::Tensor& like) {
    if (!is_on_npu(like)) {
        return x.clone();
    }
    const at::Tensor result = on_device(x.sizes(), x.scalar_type(), like.device());
    const at::Tensor numbers = x.contiguous();
    std::memcpy(result.data_ptr(), numbers.data_ptr(), numbers.nbytes());
    return result;
}

const bool renamed = [] {
    c10::register_privateuse1_backend("npu");
    return true;
}();

}  // namespace aie_double

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&aie_double::refuse_operator>());
}

#if VITAIE_TORCH_NUMBER < 201  // newer ones have it
TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, library) {
    library.fallback(torch::CppFunction::makeFallthrough());
}
#endif

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&aie_double::compute_in_half>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
    library.impl("empty.memory_format", &aie_double::empty);
    library.impl("empty_strided", &aie_double::empty_strided);
    library.impl("_copy_from", &aie_double::copy_from);
}

TORCH_LIBRARY(aie_double, library) {
    const auto add = [&library](const char* schema, auto* function) {
        library.def(schema, torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, function));
    };
    add("refuses_engine(Tensor engine) -> bool", &aie_double::refuses_engine);
    add("refuses_input(Tensor engine, Tensor x) -> bool", &aie_double::refuses_input);
    add("refuses_on_host(Tensor x) -> bool", &aie_double::refuses_on_host);
    add("reason(Tensor x) -> str", &aie_double::reason);
    add("execute(Tensor engine, Tensor x) -> Tensor", &aie_double::execute);
    add("to_host(Tensor x) -> Tensor", &aie_double::to_host);
    add("to_npu(Tensor x, Tensor like) -> Tensor", &aie_double::to_npu);
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1>)

namespace torch_aie {

AIE_API void set_device(int number) {
    aie_double::machine.set_device(number);
}

AIE_API void finalize() {
    aie_double::machine.finalize();
}

}  // namespace torch_aie

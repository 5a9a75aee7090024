// vitaie-time-engine: how long vitaie takes beside bare libtorch, for benchmarks/cpp_engine.py.
//
//   vitaie-time-engine load vitaie BUNDLE    seconds of opening and loading, every byte verified
//   vitaie-time-engine load torch BUNDLE     seconds of torch::jit::load, which verifies nothing
//   vitaie-time-engine logits BUNDLE CALLS   median seconds of a call of each, in turns in this
//                                            process, and the median of their ratios
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/types.h>
#include <vitaie/vitaie.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <vector>

namespace {

using Words = std::vector<std::string>;

template <class Act>
double seconds(Act act) {
    const auto start = std::chrono::steady_clock::now();
    act();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

int time_load(const std::string& side, const std::string& bundle) {
    std::cout << seconds([&] {
        if (side == "vitaie") {
            // Kept, as a program keeps it: taking it apart is not what is timed.
            static_cast<void>(new vitaie::Model(vitaie::Bundle::open(bundle).load()));
        } else {
            static_cast<void>(new torch::jit::Module(torch::jit::load(bundle + "/model.ts")));
        }
    }) << '\n';
    return 0;
}

int time_logits(const std::string& path, int calls) {
    const vitaie::Bundle bundle = vitaie::Bundle::open(path);
    const vitaie::Model model = bundle.load();
    torch::jit::Module module = torch::jit::load((bundle.folder() / "model.ts").string());
    module.eval();
    const std::int64_t side = bundle.image_size();
    std::vector<float> batch(static_cast<std::size_t>(3 * side * side));
    std::mt19937 generator(1);
    std::generate(batch.begin(), batch.end(),
                  [&generator] { return static_cast<float>(generator() / 2147483648.0 - 1); });
    std::vector<float> logits;
    at::Tensor bare;
    const auto ours = [&] { logits = model.logits(batch); };
    const auto theirs = [&] {
        const c10::InferenceMode guard;
        bare = module.forward({torch::from_blob(batch.data(), {1, 3, side, side})}).toTensor();
    };
    for (int call = 0; call < 5; ++call) {
        ours();
        theirs();
    }
    if (std::memcmp(logits.data(), bare.data_ptr<float>(), sizeof(float) * logits.size()) != 0) {
        std::cerr << "the logits differ\n";
        return 1;
    }
    std::vector<double> left;
    std::vector<double> right;
    std::vector<double> ratios;
    for (int call = 0; call < calls; ++call) {
        const bool is_first = call % 2 == 0;
        const double before = is_first ? seconds(ours) : seconds(theirs);
        const double after = is_first ? seconds(theirs) : seconds(ours);
        left.push_back(is_first ? before : after);
        right.push_back(is_first ? after : before);
        ratios.push_back(left.back() / right.back());
    }
    std::cout << median(left) << ' ' << median(right) << ' ' << median(ratios) << '\n';
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    const Words words(arguments + 1, arguments + count);
    if (words.size() == 3 && words[0] == "load") {
        return time_load(words[1], words[2]);
    }
    if (words.size() == 3 && words[0] == "logits") {
        return time_logits(words[1], std::stoi(words[2]));
    }
    std::cerr << "usage: vitaie-time-engine load vitaie|torch BUNDLE | logits BUNDLE CALLS\n";
    return 2;
}

// vitaie-use-api: what a stranger's program gets from libvitaie.so through vitaie.hpp, for pytest to
// compare with Python.
//
//   vitaie-use-api BUNDLE facts                    name, version, digest, S, classes, the manifest's size
//   vitaie-use-api BUNDLE classify K IMAGE…        each on its own; a line "index probability id label"
//   vitaie-use-api BUNDLE bytes K IMAGE…           as classify, of the files' bytes
//   vitaie-use-api BUNDLE batch K SIZE IMAGE…      all in one call, SIZE at once
//   vitaie-use-api BUNDLE threads COUNT IMAGE…     from threads at once: "same" when all agree
//   vitaie-use-api BUNDLE logits FILE              of the float32 batch in a file, as bytes on stdout
//   vitaie-use-api BUNDLE frame FILE W H STRIDE rgb|bgr    a frame's tensor, as bytes on stdout
//   vitaie-use-api BUNDLE misuse                   the codes of calls that are wrong
//
// $VITAIE_TARGET is the target, "auto" otherwise.
//
// An error ends it with its line on stderr and its exit code.
#include <vitaie/vitaie.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

static_assert(std::is_nothrow_move_constructible_v<vitaie::Model>);
static_assert(!std::is_copy_constructible_v<vitaie::Model>);
static_assert(!std::is_copy_constructible_v<vitaie::Bundle>);

using Words = std::vector<std::string>;
using Predictions = std::vector<vitaie::Prediction>;

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::vector<float>& numbers) {
    std::cout.write(reinterpret_cast<const char*>(numbers.data()),
                    static_cast<std::streamsize>(sizeof(float) * numbers.size()));
}

void print(const Predictions& predictions) {
    for (const auto& each : predictions) {
        std::cout << each.index << ' ' << std::setprecision(17) << each.probability << ' '
                  << each.id << ' ' << each.label << '\n';
    }
}

std::vector<vitaie::Image> images(const Words& words, std::size_t begin) {
    return {words.begin() + static_cast<std::ptrdiff_t>(begin), words.end()};
}

bool are_equal(const Predictions& one, const Predictions& other) {
    return std::equal(one.begin(), one.end(), other.begin(), other.end(), [](auto& a, auto& b) {
        return a.index == b.index && a.probability == b.probability && a.label == b.label;
    });
}

void classify_in_threads(const vitaie::Model& model, std::size_t count,
                         const std::vector<vitaie::Image>& inputs) {
    const auto expected = model.classify(inputs);
    std::atomic<int> different{0};
    std::vector<std::thread> threads;
    for (std::size_t index = 0; index < count; ++index) {
        threads.emplace_back([&, index] {
            const auto found = index % 2 == 0 ? model.classify(inputs) : [&] {
                std::vector<Predictions> each;
                for (const auto& image : inputs) {
                    each.push_back(model.classify(image));
                }
                return each;
            }();
            for (std::size_t image = 0; image < inputs.size(); ++image) {
                different += are_equal(found[image], expected[image]) ? 0 : 1;
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    std::cout << (different == 0 ? "same" : "different") << '\n';
}

template <class Act>
void expect(Act act) {
    try {
        act();
        std::cout << "ok\n";
    } catch (const vitaie::Error& error) {
        std::cout << error.code() << ' ' << error.exit_code() << ' ' << error.field() << '\n';
    }
}

void misuse(const vitaie::Bundle& bundle, const vitaie::Model& model) {
    const auto side = bundle.image_size();
    std::vector<float> tensor(static_cast<std::size_t>(3 * side * side));
    const std::vector<std::uint8_t> pixels(30);
    const auto frame = [&](std::size_t size, std::int64_t width, std::int64_t height,
                           std::int64_t stride, std::int32_t order) {
        const vitaie_image image =
            vitaie_image_pixels(pixels.data(), size, width, height, stride, order);
        vitaie_error* error = nullptr;
        // What cannot be asked for through the C++ face.
        vitaie_bundle* handle = nullptr;
        vitaie::check(vitaie_bundle_open(bundle.folder().c_str(), &handle));
        error = vitaie_bundle_preprocess(handle, &image, tensor.data(), tensor.size());
        vitaie_bundle_free(handle);
        vitaie::check(error);
    };
    expect([&] { frame(30, 5, 2, 15, VITAIE_RGB); });
    expect([&] { frame(29, 5, 2, 15, VITAIE_RGB); });  // a byte less than its rows
    expect([&] { frame(30, 5, 2, 16, VITAIE_BGR); });  // rows that end past it
    expect([&] { frame(30, 5, 2, 14, VITAIE_RGB); });  // rows that overlap
    expect([&] { frame(30, 0, 2, 15, VITAIE_RGB); });
    expect([&] { frame(30, -5, 2, 15, VITAIE_RGB); });
    expect([&] { frame(30, 5, 2, INT64_MAX, VITAIE_RGB); });
    expect([&] { frame(30, INT64_MAX, INT64_MAX, INT64_MAX, VITAIE_RGB); });
    expect([&] { frame(30, 5, 2, 15, 7); });
    expect([&] { static_cast<void>(model.preprocess(vitaie::ImageView{})); });
    expect([&] { static_cast<void>(model.preprocess(vitaie::BytesView{})); });
    expect([&] { static_cast<void>(model.preprocess(static_cast<const char*>(nullptr))); });
    expect([&] { static_cast<void>(model.preprocess("no such file")); });
    expect([&] { static_cast<void>(model.logits({nullptr, 0})); });
    expect([&] { static_cast<void>(model.logits({tensor.data(), tensor.size() - 1})); });
    expect([&] { static_cast<void>(model.classify("no such file", 0)); });
    expect([&] { static_cast<void>(bundle.load({"no such target"})); });
    expect([&] { static_cast<void>(bundle.load({"cpu"})); });
    expect([&] { static_cast<void>(bundle.load({"auto", -1})); });
    expect([&] { static_cast<void>(bundle.load({"auto", 1025})); });
    expect([&] { vitaie::check(vitaie_bundle_open(nullptr, nullptr)); });
    expect([&] { vitaie::check(vitaie_bundle_load(nullptr, nullptr, nullptr)); });
    expect([&] { static_cast<void>(model.preprocess(std::string("cat.jpg\0.png", 12))); });
    vitaie::Model gone = bundle.load();
    const vitaie::Model taken = std::move(gone);
    expect([&] { static_cast<void>(gone.classify("cat.jpg")); });
    expect([&] { static_cast<void>(gone.classify(std::vector<vitaie::Image>{"cat.jpg"})); });
    expect([&] { static_cast<void>(gone.logits(tensor)); });
    expect([&] { static_cast<void>(gone.preprocess("cat.jpg")); });
    std::size_t length = 1;
    const bool is_empty =
        gone.target().empty() && gone.classes() == 0 && gone.image_size() == 0 &&
        *vitaie_bundle_name(nullptr) == '\0' && *vitaie_bundle_version(nullptr) == '\0' &&
        *vitaie_bundle_digest(nullptr) == '\0' && *vitaie_bundle_folder(nullptr) == '\0' &&
        *vitaie_bundle_manifest(nullptr, &length) == '\0' && length == 0 &&
        vitaie_bundle_classes(nullptr) == 0 && vitaie_bundle_image_size(nullptr) == 0;
    std::cout << (is_empty ? "empty" : "not empty") << '\n';
    vitaie_bundle_free(nullptr);
    vitaie_model_free(nullptr);
    vitaie_error_free(nullptr);
}

void use(const Words& words) {
    const std::string& act = words.at(1);
    vitaie::Bundle bundle = vitaie::Bundle::open(words.at(0));
    if (act == "facts") {
        std::cout << bundle.name() << '\n'
                  << bundle.version() << '\n'
                  << bundle.digest() << '\n'
                  << bundle.image_size() << '\n'
                  << bundle.classes() << '\n'
                  << bundle.manifest().size() << '\n';
        return;
    }
    if (act == "frame") {
        const std::string pixels = read(words.at(2));
        const vitaie::ImageView view{
            reinterpret_cast<const std::uint8_t*>(pixels.data()), std::stoll(words.at(3)),
            std::stoll(words.at(4)), std::stoll(words.at(5)),
            words.at(6) == "bgr" ? vitaie::PixelOrder::BGR : vitaie::PixelOrder::RGB};
        return write(bundle.preprocess(view));
    }
    const vitaie::Model model = [&] {
        vitaie::Bundle moved = std::move(bundle);
        const char* target = std::getenv("VITAIE_TARGET");
        vitaie::Model loaded = moved.load({target == nullptr ? "auto" : target});
        bundle = std::move(moved);
        return loaded;
    }();
    if (act == "classify") {
        for (const auto& image : images(words, 3)) {
            print(model.classify(image, std::stoul(words.at(2))));
        }
    } else if (act == "bytes") {
        for (std::size_t index = 3; index < words.size(); ++index) {
            const std::string bytes = read(words[index]);
            const vitaie::BytesView view{bytes.data(), bytes.size()};
            print(model.classify(view, std::stoul(words.at(2))));
        }
    } else if (act == "batch") {
        const std::size_t size = std::stoul(words.at(3));
        for (const auto& each : model.classify(images(words, 4), std::stoul(words.at(2)), size)) {
            print(each);
        }
    } else if (act == "threads") {
        classify_in_threads(model, std::stoul(words.at(2)), images(words, 3));
    } else if (act == "logits") {
        const std::string bytes = read(words.at(2));
        std::vector<float> batch(bytes.size() / sizeof(float));
        std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(batch.data()));
        write(model.logits(batch));
    } else if (act == "misuse") {
        misuse(bundle, model);
    }
}

}  // namespace

int main(int count, char** words) {
    try {
        use(Words(words + 1, words + count));
        return 0;
    } catch (const vitaie::Error& error) {
        std::cerr << error.what() << '\n';
        return error.exit_code();
    }
}

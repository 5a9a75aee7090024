// A whole app: classify BUNDLE IMAGE…
#include <vitaie/vitaie.hpp>

#include <cstdio>
#include <vector>

int main(int count, char** words) {
    if (count < 3) {
        std::fprintf(stderr, "usage: classify BUNDLE IMAGE...\n");
        return 2;
    }
    try {
        const vitaie::Bundle bundle = vitaie::Bundle::open(words[1]);
        const vitaie::Model model = bundle.load();
        std::printf("%s %s in %s\n", bundle.name().c_str(), bundle.version().c_str(),
                    model.target().c_str());
        // One call for all of them: while the engine works, the next images are decoded.
        const std::vector<vitaie::Image> images(words + 2, words + count);
        std::size_t index = 2;
        for (const auto& predictions : model.classify(images, 5)) {
            std::printf("%s\n", words[index++]);
            for (const vitaie::Prediction& each : predictions) {
                std::printf("%8.2f%%  %s\n", 100 * each.probability, each.label.c_str());
            }
        }
        return 0;
    } catch (const vitaie::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return error.exit_code();
    }
}

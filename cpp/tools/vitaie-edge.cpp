// vitaie-edge: what a bundle is, what it says of an image, and whether its claims are true here.
//
// The same commands, options, JSON documents and exit codes as `vitaie` in Python. Results go to
// stdout; progress, messages and the next useful command go to stderr.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cstdio>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "bench.hpp"
#include "commands.hpp"
#include "console.hpp"
#include "error.hpp"
#include "records.hpp"
#include "timing.hpp"

namespace {

using namespace vitaie::edge;
using vitaie::detail::Code;
using vitaie::detail::Error;

constexpr int interrupted = 130;

int fail(const Error& error, bool json) {
    say(error.line(), false);
    if (json) {
        const std::string document = error_document(error).dump(1, ' ', true) + "\n";
        static_cast<void>(std::fwrite(document.data(), 1, document.size(), stdout));
        static_cast<void>(std::fflush(stdout));
    }
    return error.exit_code();
}

CLI::App* add(CLI::App& app, const std::string& name, const std::string& what,
              const std::string& example, Options& options) {
    CLI::App* command = app.add_subcommand(name, what);
    command->footer("Example: " + std::string(program) + " " + name +
                    " bundles/vit_base_patch16_224" + example);
    command->add_option("BUNDLE", options.bundle, "A version's folder, or that of all versions.")
        ->required();
    command->add_flag("--json", options.json, "Print one JSON document on stdout.");
    command->add_flag("-q,--quiet", options.quiet, "No progress, no messages.");
    return command;
}

void add_engine(CLI::App* command, Options& options, const std::string& otherwise,
                const std::string& what) {
    const auto set = [&options](const std::string& id) { options.target = id; };
    command->add_option_function<std::string>("--target", set, what)->type_name("ID");
    command->preparse_callback([&options, otherwise](std::size_t) { options.target = otherwise; });
    const auto set_threads = [&options](const std::int64_t& count) {
        if (count < 1 || count > vitaie::detail::max_threads) {  // 0 is not for users to say
            throw Error(Code::E_ARGUMENT, "threads")
                .expected("1 to " + std::to_string(vitaie::detail::max_threads))
                .got(count);
        }
        options.engine.threads = count;
    };
    command
        ->add_option_function<std::int64_t>("--threads", set_threads,
                                            "Threads of the engine; its own choice otherwise.")
        ->type_name("N");
    command
        ->add_option("--device-id", options.engine.device_id,
                     "Which device, for a target on one; 0 otherwise.")
        ->type_name("K");
}

/// Parses the command line and runs what it names.
int run(int count, char** words, Options& options) {
    CLI::App app("Use Vision Transformer bundles: inspect, classify, and re-check every claim.",
                 program);
    app.require_subcommand(1);
    app.set_version_flag("--version", VITAIE_VERSION);
    ClassifyOptions classified;
    PreprocessOptions preprocessed;
    std::int64_t batch_size = 1;

    CLI::App* info_command =
        add(app, "info", "Say what a bundle is and claims. Checks the manifest and the file sizes.",
            "", options);
    CLI::App* verify_command =
        add(app, "verify",
            "Re-check what a bundle claims: every byte, and its goldens. The exit "
            "code is the verdict: 0 true, 1 false.",
            "", options);
    add_engine(verify_command, options, "all", "Goldens in one target; all otherwise.");
    CLI::App* classify_command =
        add(app, "classify",
            "Print the most probable classes of images. Checks every byte of the bundle first.",
            " cat.jpg dog.png --top-k 3", options);
    classify_command->add_option("IMAGE", classified.images, "JPEG or PNG files.")->required();
    classify_command->add_option("--top-k", classified.top_k, "Classes to show; 5 otherwise.")
        ->type_name("K");
    add_engine(classify_command, options, "auto",
               "A target's id; auto, the best one of this machine, otherwise.");
    CLI::App* preprocess_command =
        add(app, "preprocess", "Write what the model sees of an image: float32 [3, H, W], as .npy.",
            " cat.jpg -o cat.npy", options);
    preprocess_command->add_option("IMAGE", preprocessed.image, "A JPEG or PNG file.")->required();
    preprocess_command->add_option("-o,--output", preprocessed.output, "A new file.")
        ->required()
        ->type_name("FILE.npy");
    CLI::App* check_command =
        add(app, "check",
            "Compare a target of this machine with TorchScript, on the goldens and seeded input.",
            " --batch 4", options);
    check_command
        ->add_option("--batch,--batch-size", batch_size,
                     "Images that the target runs at once; 1 otherwise.")
        ->type_name("N");
    add_engine(check_command, options, "auto",
               "A target's id; auto, the best one of this machine, otherwise.");
    BenchOptions benched;
    CLI::App* bench_command =
        add(app, "bench",
            "Measure how fast a target is here, and whether the figure can be trusted. The exit "
            "code is 0 when it is VALID, and 6 when it is INVALID, with the reasons.",
            " -o RECORD.json", options);
    bench_command
        ->add_option("--batch-size,--batch", benched.batch_size,
                     "Images of each call; 1 otherwise, and 16 for offline.")
        ->type_name("N");
    bench_command
        ->add_option("--scenario", benched.scenario,
                     "single_stream, batch 1, or offline; as the batch is.")
        ->type_name("NAME");
    bench_command
        ->add_option("--boundary", benched.boundary,
                     "host, which is taken otherwise: tensor to logits; end_to_end: JPEG to top-5.")
        ->type_name("NAME");
    bench_command
        ->add_option("--protocol", benched.protocol,
                     "quick, which is taken otherwise: 10 s; full: five fresh processes of 60 s.")
        ->type_name("NAME");
    bench_command
        ->add_option("--data", benched.data,
                     "Photographs to time, in class folders or one folder; else the goldens with "
                     "noise.")
        ->type_name("DIR");
    bench_command->add_option("--seed", benched.seed, "Of order and checks; drawn otherwise.")
        ->type_name("S");
    bench_command->add_option("-o,--output", benched.output, "A new file.")
        ->type_name("RECORD.json");
    add_engine(bench_command, options, "auto",
               "A target's id; auto, the best one of this machine, otherwise.");

    try {
        app.parse(count, words);
    } catch (const CLI::CallForHelp&) {
        const auto chosen = app.get_subcommands();
        print_line(chosen.empty() ? app.help() : chosen.front()->help(program));
        return 0;
    } catch (const CLI::CallForVersion&) {
        print_line(std::string(program) + " " + VITAIE_VERSION);
        return 0;
    } catch (const CLI::ParseError& error) {
        const auto chosen = app.get_subcommands();
        if (chosen.empty()) {
            throw Error(Code::E_USAGE, program)
                .expected("info, verify, classify, preprocess, check or bench")
                .got(words[1])
                .hint(std::string("Run: ") + program + " --help");
        }
        const std::string name = std::string(program) + " " + chosen.front()->get_name();
        throw Error(Code::E_USAGE, name).got(error.what()).hint("Run: " + name + " --help");
    }
    if (info_command->parsed()) {
        return info(options);
    }
    if (verify_command->parsed()) {
        return verify(options);
    }
    if (classify_command->parsed()) {
        return classify(options, classified);
    }
    if (preprocess_command->parsed()) {
        return preprocess(options, preprocessed);
    }
    return check_command->parsed() ? check(options, batch_size) : bench(options, benched);
}

// What an interrupted command leaves behind, made before there is a signal to answer.
std::string interrupted_line;
std::string interrupted_document;

extern "C" void leave(int) {
    static_cast<void>(!::write(2, interrupted_line.data(), interrupted_line.size()));
    static_cast<void>(!::write(1, interrupted_document.data(), interrupted_document.size()));
    ::_exit(interrupted);
}

/// Answers Ctrl-C, SIGTERM and a lost terminal with one line and exit code 130. A signal that is
/// ignored (nohup) stays ignored.
void answer_signals(bool json) {
    const Error error = Error(Code::E_INTERRUPTED, program)
                            .hint("Nothing was left behind; run it again to start over.");
    interrupted_line = error.line() + "\n";
    interrupted_document = json ? error_document(error).dump(1, ' ', true) + "\n" : "";
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction before{};
        ::sigaction(number, nullptr, &before);
        if (before.sa_handler != SIG_IGN) {
            struct sigaction action{};
            action.sa_handler = leave;
            ::sigaction(number, &action, nullptr);
        }
    }
    ::signal(SIGPIPE, SIG_IGN);  // a pipe that nobody reads is an error that print finds
}

/// Sees that no file that is opened later gets the number of a stream that was closed before.
void open_streams() {
    const bool has_output = ::fcntl(1, F_GETFD) >= 0;
    int descriptor = ::open("/dev/null", O_RDWR);
    while (descriptor >= 0 && descriptor <= 2) {
        descriptor = ::open("/dev/null", O_RDWR);
    }
    ::close(descriptor);
    if (!has_output) {
        throw_no_output("it is closed");
    }
}

}  // namespace

int main(int count, char** words) {
    if (count == 3 && std::strcmp(words[1], timing_word) == 0) {
        answer_timing_request(words[2]);
    }
    Options options;
    for (int index = 1; index < count; ++index) {
        options.json = options.json || std::strcmp(words[index], "--json") == 0;
    }
    const bool json = options.json;
    try {
        answer_signals(json);
        open_streams();
        std::array<char, 7> help = {"--help"};
        std::array<char*, 3> with_help = {words[0], help.data(), nullptr};
        return count > 1 ? run(count, words, options) : run(2, with_help.data(), options);
    } catch (const Error& error) {
        return fail(error, json && error.where() != "standard output");
    } catch (const std::bad_alloc&) {
        return fail(
            Error(Code::E_MEMORY, program).hint("Close other programs, or allow more memory."),
            json);
    } catch (const std::system_error& error) {  // no more threads
        return fail(Error(Code::E_MEMORY, program).got(error.what()).hint("Allow more processes."),
                    json);
    }
}

// vitaie-edge: what a bundle is, what it says of an image, and whether its claims are true here.
//
// The same commands, options, JSON documents and exit codes as `vitaie` in Python. Results go to
// stdout; progress, messages and the next useful command go to stderr.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "digest.hpp"
#include "error.hpp"
#include "model.hpp"
#include "npy.hpp"
#include "output.hpp"
#include "utf8.hpp"
#include "verify.hpp"

namespace {

using namespace vitaie::detail;
using Json = nlohmann::ordered_json;

constexpr const char* program = "vitaie-edge";
constexpr std::size_t many = 50;  // steps, from which on not each is named
constexpr int interrupted = 130;

/// What every command takes.
struct Options {
    std::string bundle;
    std::string target;
    std::int64_t threads = 0;
    bool json = false;
    bool quiet = false;
};

// Printing

/// Throws what printing ended with: the disk is full, or nobody listens.
[[noreturn]] void throw_no_output(std::string_view got) {
    throw Error(Code::E_DISK, "standard output")
        .got(got)
        .hint("Nothing was printed in full; give it a file or a pipe that takes it.");
}

void print(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
        std::fflush(stdout) != 0) {
        throw_no_output(std::generic_category().message(errno));
    }
}

void print_line(const std::string& text) {
    print(text + "\n");
}

/// Prints the one document of --json, in ASCII: any terminal takes it, none is steered.
void print_json(const Json& document) {
    print_line(document.dump(1, ' ', true));
}

/// Prints a message for people; whether anybody listens does not matter.
void say(const std::string& text, bool quiet) {
    if (!quiet) {
        const std::string line = printable(text, 2000) + "\n";
        static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
    }
}

/// A word as a shell reads it back.
std::string shell_word(const std::string& word) {
    const auto is_plain = [](char c) {
        return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
               std::string_view("@%+=:,./-_").find(c) != std::string_view::npos;
    };
    if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) {
        return word;
    }
    std::string quoted = "'";
    for (const char c : word) {
        quoted += c == '\'' ? "'\"'\"'" : std::string(1, c);
    }
    return quoted + "'";
}

/// Names the next useful command, complete enough to copy.
void suggest(bool quiet, const std::vector<std::string>& words) {
    std::string line = std::string("next: ") + program;
    for (const auto& word : words) {
        line.append(" ").append(shell_word(word));
    }
    say(line, quiet);
}

/// Names each step on stderr as it starts.
class Steps {
  public:
    Steps(std::size_t count, bool quiet) : count_(count), quiet_(quiet || count >= many) {}

    void operator()(const std::string& step) {
        say(std::to_string(++started_) + "/" + std::to_string(count_) + " " + step, quiet_);
    }

  private:
    std::size_t count_;
    std::size_t started_ = 0;
    bool quiet_;
};

/// A path for JSON: bytes that are no UTF-8 are escaped, as JSON cannot hold them.
std::string utf8(std::string_view path) {
    std::string text;
    while (!path.empty()) {
        const Character found = first_character(path);
        if (found.size != 0) {
            text += path.substr(0, found.size);
        } else {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\udc%02x",
                          static_cast<unsigned>(static_cast<unsigned char>(path.front())));
            text += escaped;
        }
        path.remove_prefix(std::max<std::size_t>(found.size, 1));
    }
    return text;
}

/// A number as Python shows it.
std::string shortest(double number) {
    return Json(number).dump();
}

std::string formatted(const char* format, double number) {
    std::array<char, 400> digits{};
    std::snprintf(digits.data(), digits.size(), format, number);
    return digits.data();
}

/// "1,234.5"
std::string grouped(double number) {
    std::string digits = formatted("%.1f", number);
    for (std::size_t place = digits.find('.'); place > 3;) {
        place -= 3;
        digits.insert(place, ",");
    }
    return digits;
}

// Commands

std::string listed(const std::array<double, 3>& numbers) {
    return "[" + shortest(numbers[0]) + ", " + shortest(numbers[1]) + ", " + shortest(numbers[2]) +
           "]";
}

std::string batches(const Target& target) {
    std::string text;
    for (const std::int64_t size : target.batch_sizes) {
        text.append(text.empty() ? "" : ", ").append(std::to_string(size));
    }
    return text.empty() ? "any" : text;
}

std::string measured(const Manifest& manifest) {
    if (manifest.accuracy.empty() && manifest.performance.empty()) {
        return "nothing: no accuracy and no speed is claimed";
    }
    return std::to_string(manifest.accuracy.size()) + " accuracy and " +
           std::to_string(manifest.performance.size()) + " speed records";
}

using Rows = std::vector<std::pair<std::string, std::string>>;

/// What a bundle is and claims, on one screen.
Rows describe(const Bundle& bundle) {
    const Manifest& manifest = bundle.manifest();
    const Architecture& model = manifest.model;
    const Preprocess& spec = manifest.preprocess;
    double size = 0;
    for (const auto& artifact : manifest.artifacts) {
        size += static_cast<double>(artifact.size);
    }
    Rows rows = {
        {"bundle", manifest.name + " " + manifest.version + ", " + grouped(size / 1e6) + " MB, " +
                       bundle.folder()},
        {"content", manifest.content_digest},
        {"made", manifest.toolchain.created + " from " + manifest.source.file},
        {"source", manifest.source.sha256},
        {"model", std::to_string(model.image_size) + " px in patches of " +
                      std::to_string(model.patch_size) + ", " + std::to_string(model.depth) +
                      " blocks of " + std::to_string(model.width) + ", " +
                      std::to_string(model.classes) + " classes, " +
                      formatted("%.1f", static_cast<double>(model.parameters) / 1e6) +
                      " M parameters, " + formatted("%.2f", model.gflop) + " GFLOP"},
        {"preprocess", spec.profile + ": " + spec.resize.mode + " " +
                           std::to_string(spec.resize.size) + " " + spec.resize.interpolation +
                           ", crop " + std::to_string(spec.crop.size) + ", mean " +
                           listed(spec.mean) + ", std " + listed(spec.std)},
    };
    for (const auto& target : manifest.targets) {
        rows.emplace_back("target", target.id + ": level " + std::to_string(target.optim_level) +
                                        ", batch " + batches(target) + ", " +
                                        formatted("%.1e", target.agreement.max_rel_diff) +
                                        " from the source on " +
                                        std::to_string(target.agreement.images) + " goldens");
    }
    for (const auto& golden : manifest.goldens) {
        rows.emplace_back("golden", golden.source + ": class " + std::to_string(golden.top1) +
                                        ", margin " + formatted("%.3f", golden.margin));
    }
    rows.emplace_back("measured", measured(manifest));
    for (const auto& figure : manifest.expected.accuracy) {
        const std::string top5 = figure.top5 ? ", top-5 " + shortest(*figure.top5) : "";
        rows.emplace_back("published", "for " + manifest.source.variant +
                                           ", not measured here: top-1 " + shortest(figure.top1) +
                                           top5 + " (" + figure.source + ")");
    }
    return rows;
}

int info(const Options& options) {
    const Bundle bundle = Bundle::open(options.bundle);
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["manifest"] = Json::parse(bundle.manifest_text());
        print_json(document);
    } else {
        std::string text;
        for (const auto& [key, value] : describe(bundle)) {
            text += key + std::string(11 - key.size(), ' ') + printable(value, 400) + "\n";
        }
        print(text);
    }
    suggest(options.quiet, {"verify", bundle.folder()});
    return 0;
}

void print_claims(const std::vector<Claim>& claims) {
    std::string text;
    std::size_t unchecked = 0;
    for (const auto& claim : claims) {
        std::string status(vitaie::detail::text(claim.status));
        status.resize(12, ' ');
        text += status + printable(claim.claim) + ": " + printable(claim.detail) + "\n";
        unchecked += claim.status == Status::not_checked ? 1 : 0;
    }
    text += holds(claims) ? "TRUE" : "FALSE";
    text += unchecked == 0 ? "" : ", " + std::to_string(unchecked) + " not checked";
    print_line(text);
}

void print_claims_json(const Bundle& bundle, const std::vector<Claim>& claims) {
    Json document;
    document["path"] = utf8(bundle.folder());
    document["name"] = bundle.manifest().name;
    document["version"] = bundle.manifest().version;
    document["content_digest"] = bundle.manifest().content_digest;
    document["holds"] = holds(claims);
    document["claims"] = Json::array();
    for (const auto& claim : claims) {
        Json row;
        row["claim"] = claim.claim;
        row["status"] = vitaie::detail::text(claim.status);
        row["detail"] = utf8(claim.detail);
        document["claims"].push_back(std::move(row));
    }
    print_json(document);
}

int verify(const Options& options) {
    check_threads(options.threads);
    const Bundle bundle = Bundle::open(options.bundle);
    const std::size_t targets = options.target == "all" ? bundle.manifest().targets.size() : 1;
    Steps steps(2 + targets, options.quiet);
    const auto claims =
        verify(bundle, options.target, options.threads, [&](const auto& step) { steps(step); });
    if (options.json) {
        print_claims_json(bundle, claims);
    } else {
        print_claims(claims);
    }
    if (holds(claims)) {
        suggest(options.quiet, {"info", bundle.folder()});
        return 0;
    }
    const auto wrong = std::find_if(claims.begin(), claims.end(), [](const Claim& claim) {
        return claim.status == Status::is_false;
    });
    say(Error(Code::E_CLAIM_FALSE, bundle.folder())
            .field(wrong->claim)
            .got(wrong->detail)
            .hint("Do not use this bundle for what it claims.")
            .line(),
        false);
    return 1;
}

struct ClassifyOptions {
    std::vector<std::string> images;
    std::int64_t top_k = 5;
};

Json predictions_json(const std::vector<Prediction>& predictions) {
    Json rows = Json::array();
    for (const auto& each : predictions) {
        Json row;
        row["index"] = each.index;
        row["id"] = each.label->id;
        row["label"] = each.label->name;
        row["probability"] = each.probability;
        rows.push_back(std::move(row));
    }
    return rows;
}

void print_predictions(const std::string& image, const std::vector<Prediction>& predictions) {
    std::string text = printable(image) + "\n";
    for (const auto& each : predictions) {
        text += "  " + formatted("%6.2f", 100 * each.probability) + "%  " +
                printable(each.label->id + "  " + each.label->name) + "\n";
    }
    print(text);
}

int classify(const Options& options, const ClassifyOptions& chosen) {
    check_threads(options.threads);
    const Bundle bundle = Bundle::open(options.bundle);
    const Model model(bundle, options.target, options.threads);
    if (options.target == "auto") {
        say(model.manifest().name + " " + model.manifest().version + ": target " +
                model.target().id,
            options.quiet);
    }
    if (chosen.top_k < 1) {
        throw Error(Code::E_ARGUMENT, "top_k").expected("at least 1").got(chosen.top_k);
    }
    Steps steps(chosen.images.size(), options.quiet || chosen.images.size() == 1);
    Json rows = Json::array();
    std::size_t index = 0;
    const std::vector<Input> images(chosen.images.begin(), chosen.images.end());
    const auto give = [&](const std::vector<Prediction>& predictions) {
        const std::string& image = chosen.images[index++];
        steps(image);
        if (options.json) {
            Json row;
            row["image"] = utf8(image);
            row["predictions"] = predictions_json(predictions);
            rows.push_back(std::move(row));
        } else {
            print_predictions(image, predictions);
        }
    };
    model.classify_all(images, static_cast<std::size_t>(chosen.top_k), 1, give);
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["version"] = model.manifest().version;
        document["target"] = model.target().id;
        document["images"] = std::move(rows);
        print_json(document);
    }
    suggest(options.quiet,
            {"preprocess", bundle.folder(), chosen.images.front(), "-o", "tensor.npy"});
    return 0;
}

struct PreprocessOptions {
    std::string image;
    std::string output;
};

int preprocess(const Options& options, const PreprocessOptions& chosen) {
    if (std::filesystem::path(chosen.output).extension() != ".npy") {
        throw Error(Code::E_ARGUMENT, chosen.output).expected("a name that ends in .npy");
    }
    check_output(chosen.output);
    const Bundle bundle = Bundle::open(options.bundle);
    const auto side = static_cast<std::size_t>(bundle.manifest().preprocess.crop.size);
    std::vector<float> tensor(3 * side * side);
    preprocess_input(chosen.image, bundle.manifest().preprocess, tensor.data());
    const std::string_view numbers(reinterpret_cast<const char*>(tensor.data()),
                                   sizeof(float) * tensor.size());
    write_output(chosen.output, npy_header({3, side, side}).append(numbers));
    const std::string digest = sha256(numbers);
    if (options.json) {
        Json document;
        document["output"] = utf8(chosen.output);
        document["dtype"] = "float32";
        document["shape"] = {3, side, side};
        document["sha256"] = digest;
        print_json(document);
    } else {
        const std::string sides = std::to_string(side);
        print_line(printable(chosen.output) + ": float32 [3, " + sides + ", " + sides +
                   "], sha256 " + digest);
    }
    suggest(options.quiet, {"classify", bundle.folder(), chosen.image});
    return 0;
}

int check(const Options& options, std::int64_t batch_size) {
    check_threads(options.threads);
    const Bundle bundle = Bundle::open(options.bundle);
    Steps steps(3, options.quiet);
    const Comparison found = compare(bundle, options.target, batch_size, options.threads,
                                     [&](const auto& step) { steps(step); });
    const bool is_ascend = found.target.rfind("ascend", 0) == 0;
    const std::string name = is_ascend ? "AIE" : found.target;
    const std::string message =
        found.same() ? "[SUCCESS] " + name + " inference result is the same as JIT!"
                     : "[FAILURE] " + name + " inference result is not the same as JIT!";
    const std::string detail = "largest difference " + formatted("%.1e", found.difference) +
                               " of the largest logit, " + formatted("%.0e", found.tolerance) +
                               " allowed";
    if (options.json) {
        Json document;
        document["path"] = utf8(bundle.folder());
        document["version"] = bundle.manifest().version;
        document["target"] = found.target;
        document["batch_size"] = found.batch_size;
        document["images"] = found.images;
        document["difference"] = found.difference;
        document["tolerance"] = found.tolerance;
        document["same"] = found.same();
        document["message"] = message;
        print_json(document);
    } else {
        print_line(found.target + ": " + std::to_string(found.images) + " images in batches of " +
                   std::to_string(found.batch_size) + ", " + detail);
        print_line(message);
    }
    if (found.same()) {
        suggest(options.quiet, {"verify", bundle.folder()});
        return 0;
    }
    say(Error(Code::E_CLAIM_FALSE, bundle.folder())
            .field(found.target)
            .got(detail)
            .hint("Do not use this target here.")
            .line(),
        false);
    return 1;
}

// The command line

Json error_document(const Error& error) {
    Json detail;
    detail["code"] = error.name();
    detail["exit_code"] = error.exit_code();
    detail["message"] = error.line();
    detail["where"] = error.where();
    detail["field"] = error.field();
    detail["expected"] = error.expected() ? Json(*error.expected()) : Json();
    detail["got"] = error.got() ? Json(*error.got()) : Json();
    detail["hint"] = error.hint();
    Json document;
    document["error"] = std::move(detail);
    return document;
}

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
        // 0 means the engine's own choice, and is not for users to say.
        options.threads = count == 0 ? -1 : count;
    };
    command->add_option_function<std::int64_t>("--threads", set_threads, "Threads of the engine.")
        ->type_name("N");
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
    classify_command->add_option("--top-k", classified.top_k, "Classes to show.")->type_name("K");
    add_engine(classify_command, options, "auto", "A target's id, cpu for short, or auto.");
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
    check_command->add_option("--batch", batch_size, "Images that the target runs at once.")
        ->type_name("N");
    add_engine(check_command, options, "auto", "A target's id, cpu for short, or auto.");

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
        const std::string name = program + (chosen.empty() ? "" : " " + chosen.front()->get_name());
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
    return check(options, batch_size);
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

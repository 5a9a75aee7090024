#include "timing.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>

#include "ascend.hpp"
#include "bundle.hpp"
#include "console.hpp"
#include "descriptor.hpp"
#include "digest.hpp"
#include "engine.hpp"
#include "model.hpp"
#include "verify.hpp"

namespace vitaie::edge {

namespace {

using namespace detail;

constexpr std::int64_t most_calls = 2'000'000;  // of one run: five such are what a record can hold
constexpr std::size_t kept_calls = 16;          // outputs of timed calls that are checked, and
constexpr std::size_t kept_distinct = 4;        // of those that a repeated image is compared with
constexpr std::int64_t order_length = 4096;     // calls at least before the order comes again

std::int64_t now_ns() {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

Chance drawn(const Request& request, std::uint64_t purpose) {
    Chance mixed(static_cast<std::uint64_t>(request.seed));
    const std::uint64_t first = mixed.next() + static_cast<std::uint64_t>(request.run);
    return Chance(Chance(first).next() + purpose);
}

// Inputs

/// Neighbouring images: tensors that lie one behind the other, or files.
struct Batch {
    const float* tensors = nullptr;
    std::vector<Input> files;
};

/// The images of a measurement, where they lie in memory.
class Images {
  public:
    explicit Images(const Request& request)
        : is_file_(request.boundary == "end_to_end"),
          size_(static_cast<std::size_t>(
              std::accumulate(request.sizes.begin(), request.sizes.end(), std::int64_t{0}))) {
        data_ = static_cast<const std::uint8_t*>(
            ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, request.memory, 0));
        if (data_ == MAP_FAILED) {
            throw Error(Code::E_MEMORY, request.bundle).got(std::generic_category().message(errno));
        }
        const std::uint8_t* place = data_;
        for (const std::int64_t size : request.sizes) {
            images_.push_back({place, static_cast<std::size_t>(size)});
            place += size;
        }
        batch_ = static_cast<std::size_t>(request.batch_size);
    }
    Images(const Images&) = delete;
    Images& operator=(const Images&) = delete;
    ~Images() { ::munmap(const_cast<std::uint8_t*>(data_), size_); }

    /// How many batches there are: one begins at each image that has enough behind it.
    [[nodiscard]] std::int64_t count() const {
        return static_cast<std::int64_t>(images_.size() - batch_) + 1;
    }

    [[nodiscard]] Batch batch(std::int64_t window) const {
        const auto begin = static_cast<std::size_t>(window);
        if (!is_file_) {
            return {reinterpret_cast<const float*>(images_[begin].data), {}};
        }
        Batch found;
        for (std::size_t index = begin; index < begin + batch_; ++index) {
            found.files.emplace_back(images_[index]);
        }
        return found;
    }

    /// The bytes of an image of the first batch.
    [[nodiscard]] Bytes first(std::size_t index) const { return images_[index]; }

  private:
    bool is_file_;
    std::size_t size_;
    const std::uint8_t* data_;
    std::vector<Bytes> images_;
    std::size_t batch_ = 1;
};

/// Copies a picture of `width` x `height` elements, turned round by `shift` of them in reading
/// order: new to whoever remembers inputs, and like a photograph to whoever computes.
template <class Element>
void turn(const Element* from, std::int64_t width, std::int64_t height, std::int64_t shift,
          Element* to) {
    const std::int64_t rows = shift / width;
    const std::int64_t columns = shift % width;
    for (std::int64_t y = 0; y < height; ++y) {
        const Element* source = from + width * y;
        Element* row = to + width * ((y + rows) % height);
        std::copy(source, source + width - columns, row + columns);
        std::copy(source + width - columns, source + width, row);
    }
}

/// The first batch of a measurement, turned round: it owns what it holds.
class Shifted {
  public:
    Shifted(const Images& images, const Request& request, const Model& model, std::int64_t shift) {
        const auto count = static_cast<std::size_t>(request.batch_size);
        if (request.boundary == "end_to_end") {
            for (std::size_t index = 0; index < count; ++index) {
                files_.push_back(turned_file(images.first(index), shift));
            }
            for (const std::string& file : files_) {
                batch_.files.emplace_back(
                    Bytes{reinterpret_cast<const std::uint8_t*>(file.data()), file.size()});
            }
            return;
        }
        const std::int64_t side = model.manifest().preprocess.crop.size;
        const auto plane = static_cast<std::size_t>(side * side);
        tensors_.resize(count * model.tensor_size());
        const float* from = images.batch(0).tensors;
        for (std::size_t begin = 0; begin < tensors_.size(); begin += plane) {
            turn(from + begin, side, side, shift, tensors_.data() + begin);
        }
        batch_.tensors = tensors_.data();
    }
    Shifted(const Shifted&) = delete;
    Shifted& operator=(const Shifted&) = delete;

    [[nodiscard]] const Batch& batch() const { return batch_; }

  private:
    static std::string turned_file(Bytes file, std::int64_t shift) {
        using Pixel = std::array<std::uint8_t, 3>;
        const Image image = decode(file);
        Image turned(image.width(), image.height());
        turn(reinterpret_cast<const Pixel*>(image.row(0)), image.width(), image.height(), shift,
             reinterpret_cast<Pixel*>(turned.row(0)));
        return jpeg(turned);
    }

    std::vector<float> tensors_;
    std::vector<std::string> files_;
    Batch batch_;
};

// Calls

/// What a call gives: logits, or the classes of each image.
struct Output {
    std::vector<float> logits;
    std::vector<Prediction> predictions;
};

std::string digest(const Output& output) {
    if (!output.logits.empty()) {
        return sha256({reinterpret_cast<const char*>(output.logits.data()),
                       sizeof(float) * output.logits.size()});
    }
    std::vector<double> numbers;
    for (const auto& each : output.predictions) {
        numbers.push_back(static_cast<double>(each.index));
        numbers.push_back(each.probability);
    }
    return sha256({reinterpret_cast<const char*>(numbers.data()), sizeof(double) * numbers.size()});
}

using Call = std::function<Output(const Batch&)>;

/// The call that is timed: what a user of the library would make.
Call caller(const Model& model, const Request& request) {
    if (request.boundary == "host") {
        return [&model, size = request.batch_size](const Batch& batch) {
            return Output{model.logits(batch.tensors, size), {}};
        };
    }
    return [&model, size = static_cast<std::size_t>(request.batch_size)](const Batch& batch) {
        Output output;
        if (size == 1) {
            output.predictions = model.classify(batch.files.front(), timing_top_k);
        } else {
            model.classify_all(batch.files, timing_top_k, size, [&](auto predictions) {
                output.predictions.insert(output.predictions.end(), predictions.begin(),
                                          predictions.end());
            });
        }
        return output;
    };
}

/// An order of the batches: each once, then each once in another order, ….
std::vector<std::int64_t> input_order(std::int64_t count, const Request& request) {
    Chance chance = drawn(request, 0);
    std::vector<std::int64_t> order;
    while (static_cast<std::int64_t>(order.size()) < order_length) {
        const auto round = chance.permutation(count);
        order.insert(order.end(), round.begin(), round.end());
    }
    return order;
}

/// Calls until there were calls and seconds enough; the very first one is none of them. Returns how
/// long the fastest took.
std::int64_t warm_up(const Call& call, const Images& images, const std::vector<std::int64_t>& order,
                     const Request& request, Run& run) {
    const auto timed = [&](std::int64_t window) {
        const Batch batch = images.batch(window);
        const std::int64_t begun = now_ns();
        call(batch);
        return now_ns() - begun;
    };
    std::int64_t fastest = timed(order.back());
    run.first_call_s = static_cast<double>(fastest) / 1e9;
    const std::int64_t started = now_ns();
    auto window = order.rbegin();
    while (run.warm_up_calls < request.warm_up_calls || run.warm_up_s < request.warm_up_s) {
        fastest = std::min(fastest, timed(*window));
        window = std::next(window) == order.rend() ? order.rbegin() : std::next(window);
        ++run.warm_up_calls;
        run.warm_up_s = static_cast<double>(now_ns() - started) / 1e9;
    }
    return std::max<std::int64_t>(fastest, 1);
}

/// Calls for as long, and as often, as the request says. Nothing else happens meanwhile.
///
/// Outputs are kept at moments that the seed draws, which no engine can know. Room for the times is
/// taken before, twice what the fastest call of the warm-up would need; where it is not enough the
/// run ends early, and is too short to count.
std::vector<Kept> time_calls(const Call& call, const Images& images,
                             const std::vector<std::int64_t>& order, std::int64_t fastest_ns,
                             const Request& request, Run& run) {
    const auto length = static_cast<std::int64_t>(std::ceil(request.seconds * 1e9));
    const std::int64_t capacity =
        std::min(std::max(request.calls, 2 * length / fastest_ns) + 1, most_calls);
    run.start_ns.resize(static_cast<std::size_t>(capacity));
    run.end_ns.resize(static_cast<std::size_t>(capacity));
    Chance chance = drawn(request, 1);
    std::vector<std::int64_t> moments;
    while (moments.size() < kept_calls) {
        moments.push_back(static_cast<std::int64_t>(
            chance.below(static_cast<std::uint64_t>(std::max<std::int64_t>(length, 1)))));
    }
    std::sort(moments.begin(), moments.end());
    moments.push_back(std::numeric_limits<std::int64_t>::max());

    std::vector<Kept> kept;
    auto moment = moments.begin();
    std::int64_t count = 0;
    std::int64_t elapsed = 0;
    while (count < capacity && (elapsed < length || count < request.calls)) {
        const std::int64_t window = order[static_cast<std::size_t>(count) % order.size()];
        const Batch batch = images.batch(window);
        const std::int64_t start = now_ns();
        const Output output = call(batch);
        const std::int64_t end = now_ns();
        run.start_ns[static_cast<std::size_t>(count)] = start;
        run.end_ns[static_cast<std::size_t>(count)] = std::max(end, start + 1);
        ++count;
        elapsed = end - run.start_ns.front();
        if (elapsed >= *moment) {
            kept.emplace_back(window, digest(output));
            moment = std::upper_bound(moment, moments.end(), elapsed);
        }
    }
    run.start_ns.resize(static_cast<std::size_t>(count));
    run.end_ns.resize(static_cast<std::size_t>(count));
    const std::int64_t first = run.start_ns.front();
    for (auto* column : {&run.start_ns, &run.end_ns}) {
        for (std::int64_t& time : *column) {
            time -= first;
        }
    }
    return kept;
}

/// How many shifts of the first batch differ: the pixels of its smallest image.
std::int64_t pixels_of(const Images& images, const Request& request, const Model& model) {
    if (request.boundary == "host") {
        const std::int64_t side = model.manifest().preprocess.crop.size;
        return side * side;
    }
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (std::int64_t index = 0; index < request.batch_size; ++index) {
        const Image image = decode(images.first(static_cast<std::size_t>(index)));
        least = std::min(least, image.width() * image.height());
    }
    return least;
}

/// Times a repeated batch and new ones in turns.
///
/// All are shifted copies of one batch, made right before: they cost the same to compute and to
/// bring in, and differ only in whether the engine has seen them.
void take_turns(const Call& call, const Images& images, const Model& model, const Request& request,
                Timed& timed) {
    Chance chance = drawn(request, 2);
    std::vector<std::int64_t> shifts =
        chance.permutation(pixels_of(images, request, model) - 1);  // and 1 is added to each
    shifts.resize(std::min(shifts.size(), static_cast<std::size_t>(request.turns_most) + 1));
    const std::int64_t usual = shifts.back() + 1;
    shifts.pop_back();
    const std::int64_t least =
        std::min(request.turns_least, static_cast<std::int64_t>(shifts.size()));
    std::vector<std::int64_t> checked = chance.permutation(least);
    checked.resize(std::min(checked.size(), kept_distinct));
    call(Shifted(images, request, model, usual).batch());  // whoever remembers inputs does so now
    double total_ms = 0;
    for (std::int64_t number = 0; number < static_cast<std::int64_t>(shifts.size()); ++number) {
        const std::int64_t shift = shifts[static_cast<std::size_t>(number)] + 1;
        for (const bool is_second : {false, true}) {
            const bool is_repeated = is_second == (number % 2 == 0);
            const Shifted input(images, request, model, is_repeated ? usual : shift);
            const std::int64_t start = now_ns();
            const Output output = call(input.batch());
            const double taken_ms = static_cast<double>(now_ns() - start) / 1e6;
            (is_repeated ? timed.repeated_ms : timed.distinct_ms).push_back(taken_ms);
            total_ms += taken_ms;
            if (!is_repeated &&
                std::find(checked.begin(), checked.end(), number) != checked.end()) {
                timed.kept_distinct.emplace_back(shift, digest(output));
            }
        }
        if (number + 1 >= least && total_ms >= 1000 * request.turns_s) {
            break;
        }
    }
}

// This process

/// Says whether every file still is what the bundle said when it was first opened.
bool is_unchanged(const Request& request) {
    try {
        const Bundle bundle = Bundle::open(request.bundle);
        bundle.check();
        return choose_target(bundle.manifest(), request.target).target_digest ==
               request.target_digest;
    } catch (const Error& error) {
        if (error.exit_code() == 1) {
            return false;
        }
        throw;
    }
}

/// The most memory that this process has had in use.
double peak_mib() {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.rfind("VmHWM:", 0) == 0) {
            return std::stod(line.substr(6)) / 1024;
        }
    }
    return 0;
}

Timed time_here(const Request& request) {
    std::this_thread::sleep_for(std::chrono::duration<double>(request.settle_s));
    const Images images(request);
    Timed timed;
    const std::int64_t begun = now_ns();
    const auto model =
        std::make_unique<const Model>(Bundle::open(request.bundle), request.target, request.engine);
    timed.run.load_s = static_cast<double>(now_ns() - begun) / 1e9;
    const Call call = caller(*model, request);
    const auto order = input_order(images.count(), request);
    const std::int64_t fastest = warm_up(call, images, order, request, timed.run);
    timed.kept = time_calls(call, images, order, fastest, request, timed.run);
    timed.run.peak_mib = peak_mib();
    take_turns(call, images, *model, request, timed);
    timed.packages = engine_packages(model->target());
    timed.unchanged =
        model->target().target_digest == request.target_digest && is_unchanged(request);
    return timed;
}

Outputs run_here(const Request& request) {
    const Images images(request);
    const Model model(Bundle::open(request.bundle), request.target, request.engine);
    const Call call = caller(model, request);
    Outputs outputs;
    for (const std::int64_t window : request.windows) {
        outputs.windows.push_back(digest(call(images.batch(window))));
    }
    for (const std::int64_t shift : request.shifts) {
        outputs.shifts.push_back(digest(call(Shifted(images, request, model, shift).batch())));
    }
    const Bundle bundle = Bundle::open(request.bundle);
    const auto claims = verify(bundle, request.target, request.engine, [](const std::string&) {});
    const auto goldens = std::find_if(claims.begin(), claims.end(), [&request](const Claim& claim) {
        return claim.claim == "goldens in " + request.target;
    });
    outputs.goldens_hold = goldens != claims.end() && goldens->status == Status::is_true;
    outputs.goldens = goldens == claims.end() ? "" : goldens->detail;
    outputs.unchanged =
        model.target().target_digest == request.target_digest && is_unchanged(request);
    return outputs;
}

// What travels between the processes

Json packed(const Request& request) {
    return {{"task", request.task},
            {"target", request.target},
            {"target_digest", request.target_digest},
            {"boundary", request.boundary},
            {"batch_size", request.batch_size},
            {"threads", request.engine.threads},
            {"device_id", request.engine.device_id},
            {"memory", request.memory},
            {"sizes", request.sizes},
            {"seed", request.seed},
            {"run", request.run},
            {"seconds", request.seconds},
            {"calls", request.calls},
            {"warm_up_calls", request.warm_up_calls},
            {"warm_up_s", request.warm_up_s},
            {"settle_s", request.settle_s},
            {"turns_least", request.turns_least},
            {"turns_most", request.turns_most},
            {"turns_s", request.turns_s},
            {"windows", request.windows},
            {"shifts", request.shifts}};
}

Request request_of(const std::string& bundle, const Json& told) {
    Request request;
    request.bundle = bundle;
    told.at("task").get_to(request.task);
    told.at("target").get_to(request.target);
    told.at("target_digest").get_to(request.target_digest);
    told.at("boundary").get_to(request.boundary);
    told.at("batch_size").get_to(request.batch_size);
    told.at("threads").get_to(request.engine.threads);
    told.at("device_id").get_to(request.engine.device_id);
    told.at("memory").get_to(request.memory);
    told.at("sizes").get_to(request.sizes);
    told.at("seed").get_to(request.seed);
    told.at("run").get_to(request.run);
    told.at("seconds").get_to(request.seconds);
    told.at("calls").get_to(request.calls);
    told.at("warm_up_calls").get_to(request.warm_up_calls);
    told.at("warm_up_s").get_to(request.warm_up_s);
    told.at("settle_s").get_to(request.settle_s);
    told.at("turns_least").get_to(request.turns_least);
    told.at("turns_most").get_to(request.turns_most);
    told.at("turns_s").get_to(request.turns_s);
    told.at("windows").get_to(request.windows);
    told.at("shifts").get_to(request.shifts);
    return request;
}

Json packed(const Timed& timed) {
    return {{"load_s", timed.run.load_s},
            {"first_call_s", timed.run.first_call_s},
            {"warm_up_calls", timed.run.warm_up_calls},
            {"warm_up_s", timed.run.warm_up_s},
            {"start_ns", timed.run.start_ns},
            {"end_ns", timed.run.end_ns},
            {"peak_mib", timed.run.peak_mib},
            {"kept", timed.kept},
            {"kept_distinct", timed.kept_distinct},
            {"repeated_ms", timed.repeated_ms},
            {"distinct_ms", timed.distinct_ms},
            {"unchanged", timed.unchanged},
            {"packages", timed.packages}};
}

Timed timed_of(const Json& told) {
    Timed timed;
    told.at("load_s").get_to(timed.run.load_s);
    told.at("first_call_s").get_to(timed.run.first_call_s);
    told.at("warm_up_calls").get_to(timed.run.warm_up_calls);
    told.at("warm_up_s").get_to(timed.run.warm_up_s);
    told.at("start_ns").get_to(timed.run.start_ns);
    told.at("end_ns").get_to(timed.run.end_ns);
    told.at("peak_mib").get_to(timed.run.peak_mib);
    told.at("kept").get_to(timed.kept);
    told.at("kept_distinct").get_to(timed.kept_distinct);
    told.at("repeated_ms").get_to(timed.repeated_ms);
    told.at("distinct_ms").get_to(timed.distinct_ms);
    told.at("unchanged").get_to(timed.unchanged);
    told.at("packages").get_to(timed.packages);
    return timed;
}

Json packed(const Outputs& outputs) {
    return {{"windows", outputs.windows},
            {"shifts", outputs.shifts},
            {"goldens_hold", outputs.goldens_hold},
            {"goldens", outputs.goldens},
            {"unchanged", outputs.unchanged}};
}

Outputs outputs_of(const Json& told) {
    Outputs outputs;
    told.at("windows").get_to(outputs.windows);
    told.at("shifts").get_to(outputs.shifts);
    told.at("goldens_hold").get_to(outputs.goldens_hold);
    told.at("goldens").get_to(outputs.goldens);
    told.at("unchanged").get_to(outputs.unchanged);
    return outputs;
}

/// The error that a timing process told.
Error error_of(const Json& told) {
    const auto name = told.at("code").get<std::string>();
    const auto row = std::find_if(error_codes.begin(), error_codes.end(),
                                  [&name](const ErrorCode& each) { return each.name == name; });
    Error error(static_cast<Code>(row - error_codes.begin()), told.at("where").get<std::string>());
    error.field(told.at("field").get<std::string>()).hint(told.at("hint").get<std::string>());
    if (!told.at("expected").is_null()) {
        error.expected(told.at("expected").get<std::string>());
    }
    if (!told.at("got").is_null()) {
        error.got(told.at("got").get<std::string>());
    }
    return error;
}

// Processes

/// Throws what a process ended by, unless it answered.
void check_ended(const Request& request, int status) {
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        throw Error(Code::E_MEMORY, request.bundle)
            .got("the timing process was killed")
            .hint("Close other programs, or use a smaller batch.");
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        throw Error(Code::E_BUNDLE_ENGINE, request.bundle)
            .field(request.target)
            .got("the timing process ended by " + (WIFSIGNALED(status)
                                                       ? std::string(::strsignal(WTERMSIG(status)))
                                                       : std::to_string(WEXITSTATUS(status))));
    }
}

/// A pipe's two ends.
struct Pipe {
    Descriptor reader;
    Descriptor writer;

    explicit Pipe(const std::string& where) {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
            throw Error(Code::E_DISK, where).got(std::generic_category().message(errno));
        }
        reader = Descriptor(ends[0]);
        writer = Descriptor(ends[1]);
    }
};

/// Becomes the timing process, between fork and exec: nothing here takes memory.
[[noreturn]] void become_timing_process(int input, int output, const Request& request,
                                        pid_t parent) {
    ::setsid();                          // out of reach of a terminal's Ctrl-C,
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // which ends the parent, and that ends this
    ::dup2(input, 0);
    ::dup2(output, 1);
    ::fcntl(request.memory, F_SETFD, 0);
    if (::getppid() == parent) {
        // The path is an argument, for JSON cannot hold every path.
        ::execl("/proc/self/exe", program, timing_word, request.bundle.c_str(), nullptr);
    }
    ::_exit(127);
}

std::string read_all(int descriptor) {
    std::string text;
    std::array<char, 65536> piece{};
    ssize_t count = 0;
    while ((count = ::read(descriptor, piece.data(), piece.size())) != 0) {
        if (count < 0 && errno != EINTR) {
            break;
        }
        text.append(piece.data(), count < 0 ? 0 : static_cast<std::size_t>(count));
    }
    return text;
}

void write_all(int descriptor, std::string_view text) {
    while (!text.empty()) {
        const ssize_t count = ::write(descriptor, text.data(), text.size());
        if (count < 0 && errno != EINTR) {
            return;  // it ended at once; its status says how
        }
        text.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
    }
}

Json ask(const Request& request) {
    Pipe question(request.bundle);
    Pipe answer(request.bundle);
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child == 0) {
        become_timing_process(question.reader.get(), answer.writer.get(), request, parent);
    }
    if (child < 0) {
        throw Error(Code::E_MEMORY, request.bundle)
            .got(std::generic_category().message(errno))
            .hint("Allow more processes.");
    }
    question.reader = Descriptor();
    answer.writer = Descriptor();
    write_all(question.writer.get(), packed(request).dump());
    question.writer = Descriptor();
    const std::string told = read_all(answer.reader.get());
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    check_ended(request, status);
    const Json document = Json::parse(told);
    if (document.contains("error")) {
        throw error_of(document.at("error"));
    }
    return document.at("done");
}

Json answer_to(const Request& request) {
    try {
        Json document;
        document["done"] =
            request.task == "time" ? packed(time_here(request)) : packed(run_here(request));
        return document;
    } catch (const Error& error) {
        return error_document(error);
    } catch (const std::bad_alloc&) {
        return error_document(Error(Code::E_MEMORY, request.bundle).hint("Use a smaller batch."));
    } catch (const std::system_error& error) {  // no more threads
        return error_document(
            Error(Code::E_MEMORY, request.bundle).got(error.what()).hint("Allow more processes."));
    }
}

}  // namespace

Timed time_target(const Request& request) {
    return timed_of(ask(request));
}

Outputs run_untimed(const Request& request) {
    return outputs_of(ask(request));
}

void answer_timing_request(const std::string& bundle) {
    const int channel = ::dup(1);
    ::dup2(2, 1);  // what engines print is no answer
    write_all(channel, answer_to(request_of(bundle, Json::parse(read_all(0)))).dump());
    finish_ascend();
    ::_exit(0);  // taking an engine apart can last a second
}

std::uint64_t Chance::next() {
    std::uint64_t mixed = state_ += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
    return mixed ^ (mixed >> 31);
}

std::uint64_t Chance::below(std::uint64_t count) {
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t fair = most - most % count;  // above it, some numbers would come more often
    std::uint64_t number = next();
    while (number >= fair) {
        number = next();
    }
    return number % count;
}

std::vector<std::int64_t> Chance::permutation(std::int64_t count) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t left = order.size(); left > 1; --left) {  // Fisher and Yates
        std::swap(order[left - 1], order[below(left)]);
    }
    return order;
}

}  // namespace vitaie::edge

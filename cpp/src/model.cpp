#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>
#include <utility>

#include "bytes.hpp"
#include "error.hpp"
#include "preprocess.hpp"

namespace vitaie::detail {

namespace {

constexpr std::size_t least_batches_held = 4;

std::size_t tensor_size_of(const Preprocess& spec) {
    return static_cast<std::size_t>(3 * spec.crop.size * spec.crop.size);
}

void check_at_least_1(const char* name, std::size_t number) {
    if (number < 1) {
        throw Error(Code::E_ARGUMENT, name).expected("at least 1").got("0");
    }
}

/// Memory for floats; a refusal is an error of the user's machine, not a bug.
std::vector<float> floats(std::size_t count, const std::string& where) {
    try {
        return std::vector<float>(count);
    } catch (const std::exception&) {  // bad_alloc, or length_error
        throw Error(Code::E_MEMORY, where)
            .expected(std::to_string(count) + " numbers")
            .hint("Use a smaller batch.");
    }
}

bool are_finite(const float* numbers, std::size_t count) {
    return std::all_of(numbers, numbers + count,
                       [](float number) { return std::isfinite(number); });
}

/// Images decoded ahead by a pool of threads, into batches that lie side by side in one ring.
class Decoding {
  public:
    Decoding(const Model& model, const std::vector<Input>& images, std::size_t batch_size)
        : model_(model),
          images_(images),
          slots_(slots_for(images.size(), batch_size)),
          tensors_(floats(slots_.size() * model.tensor_size(), model.manifest().name)) {
        const std::size_t workers =
            std::min<std::size_t>({images.size(), slots_.size(), available_cpus()});
        try {
            while (workers_.size() < workers) {
                workers_.emplace_back(&Decoding::work, this);
            }
        } catch (const std::system_error& error) {
            if (workers_.empty()) {
                throw Error(Code::E_MEMORY, model.manifest().name)
                    .got(error.what())
                    .hint("Allow more processes.");
            }
        }
    }
    Decoding(const Decoding&) = delete;
    Decoding& operator=(const Decoding&) = delete;
    ~Decoding() {
        {
            const std::lock_guard lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
        for (auto& worker : workers_) {
            worker.join();
        }
    }

    /// Where the tensor of an image lies; those of its batch follow it.
    [[nodiscard]] const float* tensor(std::size_t index) const {
        return tensors_.data() + index % slots_.size() * model_.tensor_size();
    }

    /// Waits for an image; returns what was thrown for it, or null.
    std::exception_ptr wait(std::size_t index) {
        std::unique_lock lock(mutex_);
        Slot& slot = slots_[index % slots_.size()];
        changed_.wait(lock, [&] { return slot.is_ready; });
        return slot.error;
    }

    /// Gives back the memory of all images before `end`.
    void release(std::size_t end) {
        {
            const std::lock_guard lock(mutex_);
            for (; released_ < end; ++released_) {
                slots_[released_ % slots_.size()] = {};
            }
        }
        changed_.notify_all();
    }

  private:
    struct Slot {
        bool is_ready = false;
        std::exception_ptr error;
    };

    static std::vector<Slot> slots_for(std::size_t images, std::size_t batch_size) {
        const auto batches = [batch_size](std::size_t count) {
            return (count + batch_size - 1) / batch_size;
        };
        const std::size_t held = std::max(least_batches_held, batches(available_cpus()) + 1);
        return std::vector<Slot>(batch_size * std::min(held, batches(images)));
    }

    void work() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] {
                return stopped_ || next_ == images_.size() || next_ < released_ + slots_.size();
            });
            if (stopped_ || next_ == images_.size()) {
                return;
            }
            const std::size_t index = next_++;
            lock.unlock();
            std::exception_ptr error;
            try {
                model_.preprocess(images_[index], const_cast<float*>(tensor(index)));
            } catch (...) {
                error = std::current_exception();
            }
            lock.lock();
            slots_[index % slots_.size()] = {true, error};
            changed_.notify_all();
        }
    }

    const Model& model_;
    const std::vector<Input>& images_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Slot> slots_;
    std::vector<float> tensors_;
    std::size_t next_ = 0;      // the first image that nobody decodes yet
    std::size_t released_ = 0;  // the first image whose memory is in use
    bool stopped_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace

void preprocess_input(const Input& image, const Preprocess& spec, float* out) {
    if (const auto* path = std::get_if<std::string>(&image)) {
        preprocess(decode_file(*path).view(), spec, out, *path);
    } else if (const auto* bytes = std::get_if<Bytes>(&image)) {
        preprocess(decode(*bytes).view(), spec, out, "image bytes");
    } else {
        preprocess(std::get<ImageView>(image), spec, out);
    }
}

std::vector<Prediction> best(const float* logits, const std::vector<Label>& labels, std::size_t k) {
    std::vector<std::int64_t> order(labels.size());
    std::iota(order.begin(), order.end(), 0);
    const auto count = static_cast<std::ptrdiff_t>(std::min(k, order.size()));
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [logits](std::int64_t one, std::int64_t other) {
                          return logits[one] != logits[other] ? logits[one] > logits[other]
                                                              : one < other;
                      });
    order.resize(static_cast<std::size_t>(count));
    const double largest = *std::max_element(logits, logits + labels.size());
    double sum = 0;
    for (std::size_t index = 0; index < labels.size(); ++index) {
        sum += std::exp(static_cast<double>(logits[index]) - largest);
    }
    std::vector<Prediction> predictions;
    for (const std::int64_t index : order) {
        predictions.push_back({index, &labels[static_cast<std::size_t>(index)],
                               std::exp(static_cast<double>(logits[index]) - largest) / sum});
    }
    return predictions;
}

std::vector<float> run(const Engine& engine, const float* batch, std::int64_t count,
                       const Manifest& manifest) {
    const std::size_t size =
        static_cast<std::size_t>(count) * static_cast<std::size_t>(manifest.model.classes);
    std::vector<float> logits = floats(size, manifest.name);
    engine.run(batch, count, logits.data());
    if (!are_finite(logits.data(), size)) {
        throw Error(Code::E_BUNDLE_ENGINE, manifest.name).got("logits that are not finite");
    }
    return logits;
}

Model::Model(const Bundle& bundle, std::string_view target, const EngineOptions& options)
    : manifest_(bundle.manifest()) {
    check_options(options);
    auto model = bundle.begin("model.ts");  // is read while torch is loaded
    target_ = choose_target(manifest_, target);
    check_device_of({&target_}, options);
    bundle.check({"model.ts"});
    engine_ = open_engine(bundle, target_, options, std::move(model));
    labels_ = read_labels(bundle);
}

std::size_t Model::tensor_size() const {
    return tensor_size_of(manifest_.preprocess);
}

void Model::preprocess(const Input& image, float* out) const {
    preprocess_input(image, manifest_.preprocess, out);
}

std::vector<float> Model::logits(const float* batch, std::int64_t count) const {
    if (batch == nullptr || count < 1) {
        throw Error(Code::E_BATCH, "batch").got(std::to_string(count) + " tensors");
    }
    try {
        return run(*engine_, batch, count, manifest_);
    } catch (const Error& error) {
        const auto size = static_cast<std::size_t>(count) * tensor_size();
        if (error.code() != Code::E_BUNDLE_ENGINE || are_finite(batch, size)) {
            throw;
        }
    }
    throw Error(Code::E_BATCH, "batch").expected("finite numbers").got("NaN or infinity");
}

std::vector<Prediction> Model::classify(const Input& image, std::size_t k) const {
    check_at_least_1("top_k", k);
    std::vector<float> tensor = floats(tensor_size(), manifest_.name);
    preprocess(image, tensor.data());
    return best(logits(tensor.data(), 1).data(), labels_, k);
}

void Model::classify_all(const std::vector<Input>& images, std::size_t k, std::size_t batch_size,
                         const std::function<void(std::vector<Prediction>)>& give) const {
    check_at_least_1("top_k", k);
    check_at_least_1("batch_size", batch_size);
    batch_size = std::min(batch_size, std::max<std::size_t>(images.size(), 1));
    Decoding decoding(*this, images, batch_size);
    for (std::size_t begin = 0; begin < images.size(); begin += batch_size) {
        const std::size_t end = std::min(begin + batch_size, images.size());
        std::exception_ptr error;
        std::size_t good = begin;  // up to the first image that cannot be used
        while (good < end && (error = decoding.wait(good)) == nullptr) {
            ++good;
        }
        if (good > begin) {
            const auto count = static_cast<std::int64_t>(good - begin);
            const std::vector<float> rows = logits(decoding.tensor(begin), count);
            decoding.release(good);
            for (std::size_t row = 0; row < good - begin; ++row) {
                give(best(rows.data() + row * classes(), labels_, k));
            }
        }
        if (error) {
            std::rethrow_exception(error);
        }
    }
}

}  // namespace vitaie::detail

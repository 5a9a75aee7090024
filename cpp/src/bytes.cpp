#include "bytes.hpp"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "digest.hpp"

namespace vitaie::detail {

namespace {

/// Bytes that are read before they are hashed: few enough to be still in the cache.
constexpr std::int64_t piece_size = std::int64_t{256} << 10;

Error unreadable(int number, const std::string& where) {
    return Error(Code::E_BUNDLE_FILE_UNREADABLE, where)
        .got(std::generic_category().message(number));
}

}  // namespace

Error wrong_size(const std::string& where, std::int64_t expected, std::int64_t got) {
    return Error(Code::E_BUNDLE_FILE_SIZE, where)
        .expected(std::to_string(expected) + " bytes")
        .got(std::to_string(got) + " bytes")
        .hint(fetch_again);
}

unsigned available_cpus() {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) {
        return std::max(1U, std::thread::hardware_concurrency());  // more of them than cpu_set_t
    }
    return static_cast<unsigned>(std::max(1, CPU_COUNT(&cpus)));
}

Memory::Memory(std::int64_t size, const std::string& where)
    : size_(static_cast<std::size_t>(size)) {
    data_.reset(static_cast<unsigned char*>(::operator new(size_, alignment, std::nothrow)));
    if (!data_) {
        throw Error(Code::E_MEMORY, where).expected(std::to_string(size) + " bytes");
    }
}

Reading::Reading(std::vector<OpenFile> files, Keep keep) : files_(std::move(files)) {
    for (std::size_t file = 0; file < files_.size(); ++file) {
        const Artifact& artifact = *files_[file].artifact;
        if (keep == Keep::yes) {
            memory_.emplace_back(artifact.size, files_[file].where);
        }
        if (artifact.chunks.empty()) {
            chunks_.push_back({file, 0, artifact.size, &artifact.sha256, ""});
        }
        for (std::size_t index = 0; index < artifact.chunks.size(); ++index) {
            const std::int64_t begin = static_cast<std::int64_t>(index) * chunk_size;
            chunks_.push_back({file, begin, std::min(begin + chunk_size, artifact.size),
                               &artifact.chunks[index], "chunk " + std::to_string(index)});
        }
    }
    const std::size_t workers = std::min<std::size_t>(chunks_.size(), available_cpus());
    workers_.reserve(workers);
    try {
        while (workers_.size() < workers) {
            workers_.emplace_back(&Reading::work, this);
        }
    } catch (const std::system_error&) {
        // No more threads are to be had. check() does what is left.
    }
}

Reading::~Reading() {
    stopped_ = true;
    for (auto& worker : workers_) {
        worker.join();
    }
}

void Reading::check() {
    work();
    for (auto& worker : workers_) {
        worker.join();
    }
    workers_.clear();
    for (std::size_t file = 0; file < files_.size(); ++file) {
        check_file(file);
    }
}

void Reading::work() {
    for (std::size_t index = next_++; index < chunks_.size(); index = next_++) {
        if (stopped_) {
            return;
        }
        try {
            hash(chunks_[index]);
        } catch (...) {
            chunks_[index].error = std::current_exception();
        }
    }
}

void Reading::hash(Chunk& chunk) const {
    const OpenFile& file = files_[chunk.file];
    std::vector<unsigned char> piece(
        memory_.empty() ? static_cast<std::size_t>(std::min(piece_size, chunk.end - chunk.begin))
                        : 0);
    Sha256 hash;
    for (std::int64_t place = chunk.begin; place < chunk.end && !stopped_;) {
        unsigned char* to = memory_.empty() ? piece.data() : memory_[chunk.file].data() + place;
        const auto wanted = static_cast<std::size_t>(std::min(piece_size, chunk.end - place));
        const ssize_t count = ::pread(file.descriptor, to, wanted, place);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            throw unreadable(errno, file.where);
        }
        if (count == 0) {
            throw wrong_size(file.where, file.artifact->size, place);
        }
        hash.update(to, static_cast<std::size_t>(count));
        place += count;
    }
    struct stat status{};
    if (::fstat(file.descriptor, &status) != 0) {
        throw unreadable(errno, file.where);
    }
    if (status.st_size != file.artifact->size) {
        throw wrong_size(file.where, file.artifact->size, status.st_size);
    }
    chunk.digest = hash.hexadecimal();
}

void Reading::check_file(std::size_t file) const {
    const auto first = std::find_if(chunks_.begin(), chunks_.end(),
                                    [file](const Chunk& chunk) { return chunk.file == file; });
    const auto last = std::find_if(first, chunks_.end(),
                                   [file](const Chunk& chunk) { return chunk.file != file; });
    for (auto chunk = first; chunk != last; ++chunk) {
        if (chunk->error) {
            std::rethrow_exception(chunk->error);
        }
    }
    for (auto chunk = first; chunk != last; ++chunk) {
        if (chunk->digest != *chunk->claimed) {
            throw Error(Code::E_BUNDLE_FILE_DIGEST, files_[file].where)
                .field(chunk->field)
                .expected(*chunk->claimed)
                .got(chunk->digest)
                .hint(fetch_again);
        }
    }
}

}  // namespace vitaie::detail

/// Files' bytes in private memory, read and hashed in the background.
///
///     Reading reading({{descriptor, &artifact, where}}, Keep::yes);
///     …                                  // something else meanwhile
///     reading.check();                   // throws when a byte is not the manifest's
///     Memory bytes = reading.take(0);    // what was hashed
///
/// The bytes are hashed piece by piece as they are read, while they are in the processor's cache,
/// and chunk by chunk on every processor.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "error.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

inline constexpr std::string_view fetch_again =
    "The bundle was changed after it was published; fetch it again.";

/// Returns the error of a file that is longer or shorter than the manifest says.
Error wrong_size(const std::string& where, std::int64_t expected, std::int64_t got);

/// Returns how many processors this process may run on.
unsigned available_cpus();

/// Memory that begins at a multiple of 64 bytes, as weights inside `model.ts` do.
class Memory {
  public:
    Memory() = default;
    /// \throws Error `E_MEMORY`, naming `where`, when there is not enough.
    Memory(std::int64_t size, const std::string& where);

    [[nodiscard]] unsigned char* data() const { return data_.get(); }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::string_view view() const {
        return {reinterpret_cast<const char*>(data()), size_};
    }

  private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(unsigned char* data) const { ::operator delete(data, alignment); }
    };
    std::unique_ptr<unsigned char, Free> data_;
    std::size_t size_ = 0;
};

/// An open file and what it must hold. It is expected to stay as it is, and kept open by the owner.
struct OpenFile {
    int descriptor;
    const Artifact* artifact;
    std::string where;
};

enum class Keep { no, yes };

/// Files that are being read and hashed, from the constructor on.
class Reading {
  public:
    /// \throws Error `E_MEMORY`, when the bytes are to be kept and there is not enough.
    Reading(std::vector<OpenFile> files, Keep keep);
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    /// Waits for what is being read, and reads no more.
    ~Reading();

    /// Waits until all is read and hashed. A chunked artifact is checked by its chunks, which the
    /// manifest binds as it does the whole.
    ///
    /// \throws Error The first file, in their order, that cannot be read, has another size by now,
    ///     or another digest.
    void check();

    /// Returns the bytes of the file of that index, which were kept and checked.
    [[nodiscard]] Memory take(std::size_t index) { return std::move(memory_[index]); }

  private:
    /// Bytes of a file that have a digest of their own.
    struct Chunk {
        std::size_t file;
        std::int64_t begin;
        std::int64_t end;
        const std::string* claimed;
        std::string field;
        std::string digest = {};
        std::exception_ptr error = nullptr;
    };

    void work();
    void hash(Chunk& chunk) const;
    void check_file(std::size_t file) const;

    std::vector<OpenFile> files_;
    std::vector<Memory> memory_;
    std::vector<Chunk> chunks_;
    std::atomic<std::size_t> next_{0};
    std::atomic<bool> stopped_{false};
    std::vector<std::thread> workers_;
};

}  // namespace vitaie::detail

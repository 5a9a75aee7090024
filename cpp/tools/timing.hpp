/// The process in which a target is timed: fresh, alone with one engine, and ended after.
///
/// It reads one `Request` as JSON on stdin and writes one answer on stdout, as
/// runtime/vitaie/runtime/_timing.py does. `time` opens the target, warms it up, times its calls,
/// and sees whether a repeated image is faster; `outputs` says what the target gives on some of the
/// same inputs, untimed. Outputs travel as digests: what one engine gives on one input with the
/// same threads and batch size is equal to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"
#include "image.hpp"
#include "measurement.hpp"

namespace vitaie::edge {

/// The word after which vitaie-edge is that process.
inline constexpr const char* timing_word = "--timing-process";

inline constexpr std::size_t timing_top_k = 5;  ///< classes of each image, of `end_to_end`

/// What one process is asked to do.
struct Request {
    std::string task;  ///< time or outputs
    std::string bundle;
    std::string target;
    std::string target_digest;  ///< what the bundle said when it was first opened
    std::string boundary;       ///< host or end_to_end
    std::int64_t batch_size = 1;
    detail::EngineOptions engine;
    int memory = -1;                    ///< a descriptor that holds the images one after another
    std::vector<std::int64_t> sizes;    ///< their bytes: a float32 tensor, or a JPEG file
    std::int64_t seed = 0;              ///< what order, checks and shifts follow from
    std::int64_t run = 0;               ///< the number of this process among those of a measurement
    double seconds = 0;                 ///< the timed calls last at least so long, and
    std::int64_t calls = 0;             ///< are at least so many
    std::int64_t warm_up_calls = 0;     ///< and before, at least so many and
    double warm_up_s = 0;               ///< so long
    double settle_s = 0;                ///< to wait before anything is done
    std::int64_t turns_least = 0;       ///< calls on a repeated image, and on distinct ones, which
    std::int64_t turns_most = 0;        ///< end in between
    double turns_s = 0;                 ///< when they have taken so long
    std::vector<std::int64_t> windows;  ///< of `outputs`: the batches, by their first image
    std::vector<std::int64_t> shifts;   ///< of `outputs`: the first batch, shifted by so much
};

/// A checked call: which input, and the digest of its output.
using Kept = std::pair<std::int64_t, std::string>;

/// The answer to `time`.
struct Timed {
    Run run;
    std::vector<Kept> kept;           ///< window and digest
    std::vector<Kept> kept_distinct;  ///< shift and digest
    std::vector<double> repeated_ms;
    std::vector<double> distinct_ms;
    bool unchanged = false;
    std::map<std::string, std::string> packages;  ///< of the engine, with their versions
};

/// The answer to `outputs`: digests in the order asked for, and whether the goldens hold.
struct Outputs {
    std::vector<std::string> windows;
    std::vector<std::string> shifts;
    bool goldens_hold = false;
    std::string goldens;
    bool unchanged = false;
};

/// Starts a process, asks it and waits; it does not outlive this call, whatever happens.
///
/// \throws detail::Error What it says, or what it ended by.
Timed time_target(const Request& request);
Outputs run_untimed(const Request& request);

/// Answers one request about a bundle as that process, and ends.
[[noreturn]] void answer_timing_request(const std::string& bundle);

/// Numbers that follow from a seed, the same on every machine.
class Chance {
  public:
    explicit Chance(std::uint64_t seed) : state_(seed) {}
    /// The next of 2^64: splitmix64, of Steele, Lea and Flood (OOPSLA 2014).
    std::uint64_t next();
    /// One of 0 to `count` - 1.
    std::uint64_t below(std::uint64_t count);
    /// 0 to `count` - 1 in a drawn order.
    std::vector<std::int64_t> permutation(std::int64_t count);

  private:
    std::uint64_t state_;
};

/// An image as the bytes of a JPEG file, of quality 90.
std::string jpeg(const detail::Image& image);

}  // namespace vitaie::edge

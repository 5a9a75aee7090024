#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "checks.hpp"
#include "error.hpp"

namespace vitaie::detail {

namespace {

/// Of latencies, from the one that fewest calls are enough for.
constexpr std::array<const char*, 5> percentiles = {"p50", "p90", "p95", "p99", "p99.9"};

/// Of a manifest: each is judged again by whoever audits it.
constexpr std::size_t max_gates = 64;

std::string element(std::string_view array, std::size_t index) {
    return std::string(array).append("[").append(std::to_string(index)).append("]");
}

std::string at_most(std::int64_t number) {
    return "at most " + std::to_string(number);
}

/// The checks, with what they all need: the manifest and its name in errors.
class RecordChecks {
  public:
    RecordChecks(const Manifest& manifest, const std::string& where)
        : manifest_(manifest), where_(where) {}

    void check_accuracy(const std::string& preprocess_digest) const {
        for (std::size_t index = 0; index < manifest_.accuracy.size(); ++index) {
            const AccuracyRecord& record = manifest_.accuracy[index];
            const std::string field = element("accuracy", index);
            check_target_digest(field, record.target_digest);
            check_digest(field + ".preprocess_digest", record.preprocess_digest, preprocess_digest);
            check_source(field, record);
            check_rates(field, record);
            if (record.paired) {
                check_paired(field, record);
            }
        }
    }

    void check_performance() const {
        for (std::size_t index = 0; index < manifest_.performance.size(); ++index) {
            const PerformanceRecord& record = manifest_.performance[index];
            const std::string field = element("performance", index);
            check_target_digest(field, record.target_digest);
            check_batch(field, record.scenario, record.batch_size);
            if ((record.verdict == "INVALID") == record.reasons.empty()) {
                throw value_error(field + ".reasons", "reasons when INVALID, none when VALID")
                    .got(std::to_string(record.reasons.size()));
            }
            if (!are_percentiles(record.latency_ms)) {
                throw value_error(field + ".latency_ms",
                                  "the first of p50, p90, p95, p99, p99.9, none below the one "
                                  "before");
            }
        }
    }

    /// Checks the gates the bundle passed: one that it did not pass would have stopped it.
    void check_gates() const {
        if (manifest_.gates.size() > max_gates) {
            throw value_error("gates", at_most(max_gates))
                .got(std::to_string(manifest_.gates.size()));
        }
        std::set<std::pair<std::string_view, std::string_view>> seen;
        for (std::size_t index = 0; index < manifest_.gates.size(); ++index) {
            const GateRecord& gate = manifest_.gates[index];
            const std::string field = element("gates", index);
            check_target_digest(field, gate.target_digest);
            check_pass(field, gate);
            if (!seen.emplace(gate.require, gate.target_digest).second) {
                throw value_error(field + ".require", "each gate once").got(gate.require);
            }
        }
    }

    void check_levels() const {
        const auto& levels = manifest_.levels;
        const auto chosen = std::count_if(levels.begin(), levels.end(),
                                          [](const LevelRecord& level) { return level.chosen; });
        if (!levels.empty() && chosen != 1) {
            throw value_error("levels", "one that is chosen").got(std::to_string(chosen));
        }
        for (std::size_t index = 0; index < levels.size(); ++index) {
            const LevelRecord& level = levels[index];
            const std::string field = element("levels", index);
            if (index > 0 && level.optim_level <= levels[index - 1].optim_level) {
                throw value_error(field + ".optim_level",
                                  "more than " + std::to_string(levels[index - 1].optim_level))
                    .got(level.optim_level);
            }
            check_measured_alike(field, level, levels.front());
            check_batch(field, level.scenario, level.batch_size);
            for (std::size_t number = 0; number < level.gates.size(); ++number) {
                const GateRecord& gate = level.gates[number];
                const std::string place = element(field + ".gates", number);
                check_digest(place + ".target_digest", gate.target_digest, level.target_digest);
                if (level.chosen) {
                    check_pass(place, gate);
                }
            }
            if (level.chosen) {
                check_chosen(field, level);
            }
        }
    }

  private:
    [[nodiscard]] Error value_error(const std::string& field, const std::string& expected) const {
        return Error(Code::E_MANIFEST_VALUE, where_).field(field).expected(expected);
    }

    [[nodiscard]] Error binding_error(const std::string& field, const std::string& digest) const {
        return Error(Code::E_MANIFEST_REFERENCE, where_)
            .field(field)
            .expected("a digest of this bundle")
            .got(digest);
    }

    void check_digest(const std::string& field, const std::string& digest,
                      const std::string& right) const {
        if (digest != right) {
            throw binding_error(field, digest);
        }
    }

    const Target& check_target_digest(const std::string& field, const std::string& digest) const {
        const auto found =
            std::find_if(manifest_.targets.begin(), manifest_.targets.end(),
                         [&](const Target& target) { return target.target_digest == digest; });
        if (found == manifest_.targets.end()) {
            throw binding_error(field + ".target_digest", digest);
        }
        return *found;
    }

    void check_batch(const std::string& field, const std::string& scenario,
                     std::int64_t batch_size) const {
        if (scenario == "single_stream" && batch_size != 1) {
            throw value_error(field + ".batch_size", "1 for single_stream").got(batch_size);
        }
    }

    void check_pass(const std::string& field, const GateRecord& gate) const {
        if (gate.verdict != "pass") {
            throw value_error(field + ".verdict", "pass").got(gate.verdict);
        }
    }

    void check_source(const std::string& field, const AccuracyRecord& record) const {
        const int parts = (record.source_top1 ? 1 : 0) + (record.source_top5 ? 1 : 0) +
                          (record.paired ? 1 : 0) + (record.agreement ? 1 : 0);
        if (parts != 0 && parts != 4) {
            throw value_error(field + ".paired",
                              "all of source_top1, source_top5, paired and agreement, or none");
        }
    }

    void check_rates(const std::string& field, const AccuracyRecord& record) const {
        const std::int64_t images = record.dataset.images;
        check_rate(field + ".top1", record.top1, images);
        check_rate(field + ".top5", record.top5, images);
        if (record.source_top1 && record.source_top5) {
            check_rate(field + ".source_top1", *record.source_top1, images);
            check_rate(field + ".source_top5", *record.source_top5, images);
        }
        check_order(field + ".top5", record.top5, record.top1);
        if (record.source_top1 && record.source_top5) {
            check_order(field + ".source_top5", *record.source_top5, *record.source_top1);
        }
    }

    void check_rate(const std::string& field, const Rate& rate, std::int64_t images) const {
        static constexpr double tolerance = 1e-9;
        if (rate.count > images) {
            throw value_error(field + ".count", at_most(images)).got(rate.count);
        }
        const double percent = static_cast<double>(100 * rate.count) / static_cast<double>(images);
        if (std::abs(rate.percent - percent) > tolerance) {
            throw value_error(field + ".percent", std::to_string(percent))
                .got(std::to_string(rate.percent));
        }
        if (!(rate.wilson95.low <= rate.percent && rate.percent <= rate.wilson95.high)) {
            throw value_error(field + ".wilson95",
                              "an interval around " + std::to_string(rate.percent));
        }
    }

    void check_order(const std::string& field, const Rate& top5, const Rate& top1) const {
        if (top5.count < top1.count) {
            throw value_error(field + ".count", "at least top1's " + std::to_string(top1.count))
                .got(top5.count);
        }
    }

    void check_paired(const std::string& field, const AccuracyRecord& record) const {
        const Paired& paired = *record.paired;
        for (const auto& [name, actual, expected] :
             {std::tuple("both and target_only", paired.both + paired.target_only,
                         record.top1.count),
              std::tuple("both and source_only", paired.both + paired.source_only,
                         record.source_top1->count),
              std::tuple("all four",
                         paired.both + paired.target_only + paired.source_only + paired.neither,
                         record.dataset.images)}) {
            if (actual != expected) {
                throw value_error(field + ".paired",
                                  std::to_string(expected) + " as the sum of " + name)
                    .got(actual);
            }
        }
        const std::int64_t most = paired.both + paired.neither;
        if (*record.agreement < paired.both || *record.agreement > most) {
            throw value_error(field + ".agreement",
                              std::to_string(paired.both) + " to " + std::to_string(most))
                .got(*record.agreement);
        }
    }

    static bool are_percentiles(const std::map<std::string, double>& times) {
        double before = 0;
        for (std::size_t index = 0; index < times.size(); ++index) {
            const auto found =
                index < percentiles.size() ? times.find(percentiles[index]) : times.end();
            if (found == times.end() || found->second < before) {
                return false;
            }
            before = found->second;
        }
        return !times.empty();
    }

    void check_measured_alike(const std::string& field, const LevelRecord& level,
                              const LevelRecord& first) const {
        const auto check = [&](const char* name, const std::string& ours,
                               const std::string& theirs) {
            if (ours != theirs) {
                throw value_error(field + name, theirs + ", as the first level was measured")
                    .got(ours);
            }
        };
        check(".boundary", level.boundary, first.boundary);
        check(".scenario", level.scenario, first.scenario);
        check(".batch_size", std::to_string(level.batch_size), std::to_string(first.batch_size));
    }

    void check_chosen(const std::string& field, const LevelRecord& level) const {
        const Target& ships = check_target_digest(field, level.target_digest);
        if (ships.optim_level != level.optim_level) {
            throw value_error(field + ".optim_level", std::to_string(ships.optim_level))
                .got(level.optim_level);
        }
        if (level.verdict != "VALID") {
            throw value_error(field + ".verdict", "VALID").got(level.verdict);
        }
    }

    const Manifest& manifest_;
    const std::string& where_;
};

}  // namespace

void check_records(const Manifest& manifest, const std::string& preprocess_digest,
                   const std::string& where) {
    const RecordChecks checks(manifest, where);
    checks.check_accuracy(preprocess_digest);
    checks.check_performance();
    checks.check_gates();
    checks.check_levels();
}

}  // namespace vitaie::detail

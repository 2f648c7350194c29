#include <charconv>
#include <iostream>

#include "cli/model_choices.h"
#include "cli/verb.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/usage.h"
#include "kernels/kernels.h"
#include "pipeline/bench.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble bench model.gguf\n"
    "  nibble bench model/ -p 512 -n 128 -t 1,2,4 -r 5\n"
    "  nibble bench model/ --compute fp32 --json -\n"
    "  nibble bench model/ --scheme w4a16                    (quantized on the fly)\n";

struct Options {
  Common common;
  std::string model, threads;
  BenchOptions bench;
  RunFlags flags;
};

std::vector<size_t> parse_threads(const std::string& text) {
  std::vector<size_t> counts;
  for (const std::string& part : split(text, ',')) {
    size_t count = 0;
    const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), count);
    if (status != std::errc() || end != part.data() + part.size() || count == 0)
      throw Error(ErrorKind::kUsage, cat("-t: '", part, "' is not a number of threads; write -t 1,2"));
    counts.push_back(count);
  }
  return counts;
}

std::string text(const Rate& rate) {
  return rate.mean == 0 ? "-" : cat(format_fixed(rate.mean, 1), " ± ", format_fixed(rate.deviation, 1));
}

void run(const Options& o) {
  o.common.apply();
  BenchOptions options = o.bench;
  options.threads = parse_threads(o.threads.empty() ? std::to_string(thread_count()) : o.threads);
  options.cache = o.flags.cache_type();
  const double start = wall_seconds();
  const LoadedModel loaded = load_model(o.model, o.flags.choices_for_tokens(), *o.common.progress("load"));
  const double load_seconds = wall_seconds() - start;
  o.flags.note_load(loaded, o.common);

  const std::vector<BenchRow> rows = bench(*loaded.model, options, *o.common.progress("bench"));
  const std::string isa(kernels::active().name);
  OrderedJson json_rows = OrderedJson::array();
  for (const BenchRow& row : rows)
    json_rows.push_back({{"threads", row.threads},
                         {"prefill_tps", row.prefill.mean},
                         {"prefill_stddev", row.prefill.deviation},
                         {"decode_tps", row.decode.mean},
                         {"decode_stddev", row.decode.deviation},
                         {"decode_gb_s", row.decode_gb_s}});
  if (o.common.prints()) {
    std::cout << isa << ", " << format_bytes(loaded.model->weight_bytes()) << " of weights, loaded in "
              << format_fixed(load_seconds, 2) << " s\n";
    for (const BenchRow& row : rows)
      std::cout << cat(row.threads, row.threads == 1 ? " thread:  prefill " : " threads: prefill ", text(row.prefill),
                       " tok/s, decode ", text(row.decode), " tok/s (", format_fixed(row.decode_gb_s, 1), " GB/s)\n");
  }
  OrderedJson result = {{"rows", json_rows},
                        {"isa", isa},
                        {"load_seconds", load_seconds},
                        {"weights_bytes", loaded.model->weight_bytes()}};
  o.flags.add_checks(loaded, result);
  o.common.emit(result);
}

}  // namespace

void add_bench(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App& verb = add_verb(app, "bench", "measure how fast a model reads and writes", kExamples,
                            std::shared_ptr<Common>(o, &o->common));
  verb.add_option("model", o->model, "folder or .gguf file")->required();
  verb.add_option("-p,--prompt-tokens", o->bench.prompt, "tokens of the prompt; 0: do not measure it")
      ->capture_default_str();
  verb.add_option("-n,--max-tokens", o->bench.tokens, "tokens to generate; 0: do not measure it")
      ->capture_default_str();
  verb.add_option("-t,--thread-counts", o->threads, "thread counts to measure: 1,2 (default: --threads)");
  verb.add_option("-r,--repetitions", o->bench.repetitions, "of each measurement")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_run_flags(verb, o->flags, "auto", "f16");
  verb.callback([o] { run(*o); });
}

}  // namespace nibble::cli

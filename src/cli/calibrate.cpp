#include <iostream>

#include "cli/verb.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "pipeline/quantize_request.h"
#include "pipeline/statistics.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble calibrate model/ --calib text.txt -o imatrix.gguf\n"
    "  nibble calibrate --merge a.gguf b.dat -o both.gguf\n"
    "  nibble quantize model/ -o model.gguf --format gguf:Q4_K_M --stats imatrix.gguf\n";

struct Options {
  Common common;
  std::string model, out, compute;
  CalibrationChange calibration;
  std::vector<std::string> merge;
  bool force = false;
};

Imatrix statistics(const Options& o) {
  if (!o.merge.empty()) {
    if (!o.model.empty() || !o.calibration.empty())
      throw Error(ErrorKind::kUsage, "--merge adds up files; leave out the model and the calibration options");
    Imatrix all = read_imatrix(o.merge.front());
    for (size_t i = 1; i < o.merge.size(); ++i)
      with_context([&] { return o.merge[i]; }, [&] { merge(all, read_imatrix(o.merge[i])); });
    return all;
  }
  if (o.model.empty()) throw Error(ErrorKind::kUsage, "say which model to run, or give files to --merge");
  const bool bf16 = o.compute.empty() ? kernels::fast_bf16(kernels::active()) != nullptr
                                      : with_context([] { return "--compute"; },
                                                     [&] { return parse_calibration_compute(o.compute); });
  const auto source = Source::open(o.model);
  const auto progress = o.common.progress("calibrate");
  const CalibrationData data = load_calibration(*source, o.calibration.over({}), *progress);
  o.common.note(data.description());
  for (const std::string& note : data.notes) o.common.note(note);
  return collect_statistics(*source, data, bf16, *progress);
}

void run(const Options& o) {
  o.common.apply();
  std::error_code ignored;
  if (!o.force && std::filesystem::exists(o.out, ignored))
    throw Error(ErrorKind::kUsage, cat(o.out, " exists; --force replaces it"));
  const Imatrix imatrix = statistics(o);
  write_imatrix(imatrix, o.out, o.force);
  double tokens = 0;
  for (const auto& [name, entry] : imatrix.entries) tokens = std::max(tokens, entry.tokens);
  if (o.common.prints() && !o.common.quiet)
    std::cout << "statistics of the inputs of " << imatrix.entries.size() << " linears, " << tokens
              << " tokens\nwritten   " << o.out << '\n';
  o.common.emit({{"entries", imatrix.entries.size()},
                 {"tokens", tokens},
                 {"chunks", imatrix.chunks},
                 {"datasets", imatrix.datasets}});
}

}  // namespace

void add_calibrate(CLI::App& app);
void add_calibrate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  const std::shared_ptr<Common> common(o, &o->common);
  CLI::App& verb = add_verb(app, "calibrate", "collect statistics of a model's activations, for `quantize --stats`",
                            kExamples, common);
  verb.add_option("model", o->model, "Hugging Face folder or .gguf file")->type_name("MODEL");
  verb.add_option("-o,--output", o->out, "file to write: an importance matrix as llama.cpp reads it")
      ->required()
      ->type_name("STATS");
  verb.add_option("--calib", o->calibration.from,
                  "self (default): text sampled from the model; or a file: .txt, .jsonl with `text`, `messages` or "
                  "`ids` in each line")
      ->type_name("FILE");
  verb.add_option("--samples", o->calibration.samples, "documents to use, at most (default 128)")->type_name("N");
  verb.add_option("--seqlen", o->calibration.seqlen, "tokens of a document (default 512)")->type_name("N");
  verb.add_option("--seed", o->calibration.seed, "of the sampled text (default 0)")->type_name("N");
  verb.add_option("--compute", o->compute,
                  "fp32 or bf16: arithmetic (default bf16 where the CPU has fast instructions for it)")
      ->type_name("NAME");
  verb.add_option("--merge", o->merge, "add up these files of statistics instead (llama.cpp's too)")
      ->type_name("FILE...")
      ->expected(2, 1000);
  verb.add_flag("--force", o->force, "replace STATS if it exists");
  verb.callback([o] { run(*o); });
}

}  // namespace nibble::cli

#include <cmath>
#include <iostream>
#include <optional>

#include "cli/model_choices.h"
#include "cli/verb.h"
#include "core/checked.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/text.h"
#include "core/usage.h"
#include "formats/safetensors.h"
#include "pipeline/chat.h"
#include "pipeline/evaluate.h"
#include "pipeline/gate.h"
#include "pipeline/loaded_model.h"
#include "pipeline/self_calibration.h"
#include "pipeline/tasks.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble eval model.gguf --text wiki.test.txt --ctx 512 --chunks 100\n"
    "  nibble eval quantized/ --ref original/ --text wiki.test.txt --fail-if 'kld.mean>0.05'\n"
    "  nibble eval original/ --scheme w4a16 --ref original/ --text wiki.test.txt    (quantized on the fly)\n"
    "  nibble eval model/ --tasks hellaswag.jsonl\n"
    "  nibble eval model/ --ids 1,15,27 --logits logits.safetensors\n";

struct Options {
  Common common;
  std::string model, ref, text, bos = "no", ids, logits;
  RunFlags flags;
  EvalOptions eval;
  uint64_t seed = 0;
  std::vector<std::string> tasks, gates;
};

std::vector<TokenId> parse_ids(const std::string& text) {
  std::vector<TokenId> ids;
  for (const std::string& part : split(text, ',')) {
    try {
      size_t used = 0;
      ids.push_back(std::stoi(part, &used));
      if (part.find_first_not_of(' ', used) == std::string::npos) continue;
    } catch (const std::exception&) {
    }
    throw Error(ErrorKind::kUsage, cat("--ids: '", part, "' is not a token id; write --ids 1,2,3"));
  }
  return ids;
}

void write_logits(const Options& o) {
  if (o.ids.empty() || o.logits.empty())
    throw Error(ErrorKind::kUsage, "--ids and --logits go together: --ids 1,2,3 --logits FILE.safetensors");
  const std::vector<TokenId> ids = parse_ids(o.ids);
  const LoadedModel loaded = load_model(o.model, o.flags.choices(), *o.common.progress("load"));
  o.flags.note_load(loaded, o.common);
  const size_t vocab = loaded.model->config().vocab_size;
  std::vector<float> logits(ids.size() * vocab);
  const auto cache = loaded.model->make_cache(ids.size(), o.eval.cache);
  const double start = wall_seconds();
  loaded.model->forward(ids, *cache, matrix(logits.data(), ids.size(), vocab));
  const double seconds = wall_seconds() - start;
  StagedOutput staged(o.logits, /*folder=*/false, /*force=*/true);
  SafeTensorsWriter writer(staged.path(), {{"logits", DType::kF32, {ids.size(), vocab}}}, {});
  writer.write(0, 0, std::as_bytes(std::span(logits)));
  writer.finish();
  staged.commit();
  OrderedJson result = {{"tokens", ids.size()}, {"vocab_size", vocab}, {"logits", o.logits}, {"seconds", seconds}};
  o.flags.add_checks(loaded, result);
  o.common.emit(result);
}

OrderedJson to_json(const Distribution& d) {
  return {{"mean", d.mean}, {"median", d.median}, {"p90", d.p90}, {"p99", d.p99}, {"p999", d.p999}, {"max", d.max}};
}

void print(const Evaluation& e, double seconds) {
  std::cout << "perplexity   " << format_fixed(std::exp(e.nll), 4) << "   (" << e.predictions << " predictions in "
            << e.window_nll.size() << " windows, " << format_fixed(seconds, 1) << " s)\n";
  if (!e.ref) return;
  const Comparison& c = *e.ref;
  std::cout << "reference    " << format_fixed(std::exp(c.ref_nll), 4) << "   (ratio "
            << format_fixed(std::exp(e.nll - c.ref_nll), 4) << ")\n"
            << "KLD          mean " << format_fixed(c.kld.mean, 5) << "  median " << format_fixed(c.kld.median, 5)
            << "  p90 " << format_fixed(c.kld.p90, 5) << "  p99 " << format_fixed(c.kld.p99, 4) << "  max "
            << format_fixed(c.kld.max, 3) << "\n"
            << "same top-1   " << format_fixed(100 * c.top1, 2) << " %\n"
            << "delta p rms  " << format_fixed(100 * c.delta_p_rms, 2) << " %\n";
}

void run(const Options& o) {
  o.common.apply();
  if (!o.ids.empty() || !o.logits.empty()) return write_logits(o);
  const std::vector<Gate> gates = parse_gates(o.gates);
  std::vector<std::pair<std::string, std::vector<TaskItem>>> tasks;
  for (const std::string& file : o.tasks)
    tasks.emplace_back(std::filesystem::path(file).stem().string(), read_task(file));
  // Perplexities are compared between machines, and files differ in their line ends: all read as Python reads them.
  const std::string text = o.text.empty() ? "" : normalize_newlines(read_text_file(o.text));

  const double start = wall_seconds();
  const LoadedModel loaded = load_model(o.model, o.flags.choices(), *o.common.progress("load"));
  o.flags.note_load(loaded, o.common);
  std::optional<LoadedModel> ref;
  if (!o.ref.empty()) ref = load_model(o.ref, ModelChoices{}, *o.common.progress("load reference"));

  OrderedJson result;
  if (tasks.empty() || !text.empty()) {
    EvalOptions eval = o.eval;
    std::vector<TokenId> tokens;
    if (!o.text.empty()) {
      loaded.need_tokenizer();
      tokens = with_context([&] { return o.text; }, [&] { return loaded.tokenizer->encode(text, false); });
      eval.bos =
          with_context([] { return "--bos"; },
                       [&] { return bos_token(parse_bos_choice(o.bos), *loaded.source, loaded.tokenizer.get()); });
    } else {
      if (eval.chunks == 0) eval.chunks = 8;
      o.common.note(ref ? "no --text: sampling it from the reference model"
                        : "no --text: sampling it from the model itself");
      for (const auto& sampled :
           sample_texts(ref ? *ref->model : *loaded.model,
                        {.count = eval.chunks, .length = eval.ctx, .seed = o.seed, .cache = CacheType::kF32},
                        *o.common.progress("sample")))
        tokens.insert(tokens.end(), sampled.begin(), sampled.end());
    }
    const Evaluation e =
        evaluate(*loaded.model, ref ? ref->model.get() : nullptr, tokens, eval, *o.common.progress("eval"));
    const double seconds = wall_seconds() - start;
    result = {{"ppl", std::exp(e.nll)},         {"nll", e.nll},
              {"window_nll", e.window_nll},     {"tokens", e.predictions},
              {"windows", e.window_nll.size()}, {"bytes", loaded.totals.bytes},
              {"bpw", loaded.totals.bpw()},     {"seconds", seconds}};
    if (e.ref) {
      result["ref"] = {{"ppl", std::exp(e.ref->ref_nll)}, {"nll", e.ref->ref_nll}};
      result["ppl_ratio"] = std::exp(e.nll - e.ref->ref_nll);
      result["kld"] = to_json(e.ref->kld);
      result["top1"] = e.ref->top1;
      result["delta_p_rms"] = e.ref->delta_p_rms;
    }
    if (o.common.prints()) print(e, seconds);
  }
  for (const auto& [name, items] : tasks) {
    loaded.need_tokenizer();
    const TaskResult t = run_task(*loaded.model, *loaded.tokenizer, name, items, o.eval.ctx, *o.common.progress(name));
    result["tasks"].push_back(
        {{"name", t.name}, {"acc", t.acc}, {"acc_norm", t.acc_norm}, {"stderr", t.std_error}, {"n", t.n}});
    if (o.common.prints())
      std::cout << name << "   acc " << format_fixed(t.acc, 4) << "  acc_norm " << format_fixed(t.acc_norm, 4)
                << "  (+- " << format_fixed(t.std_error, 4) << ", " << t.n << " items)\n";
  }
  o.flags.add_checks(loaded, result);
  o.common.emit(result);
  check_gates(gates, result);
}

}  // namespace

void add_eval(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App& verb = add_verb(app, "eval", "measure perplexity, and the distance to a reference model", kExamples,
                            std::shared_ptr<Common>(o, &o->common));
  verb.add_option("model", o->model, "folder or .gguf file")->required();
  verb.add_option(
      "--text", o->text,
      "text file to predict, CRLF read as LF (default: text sampled from the reference or the model itself)");
  verb.add_option("--ref", o->ref, "reference model: adds KL divergence and top-1 agreement");
  verb.add_option("--ctx", o->eval.ctx, "tokens of a window")->capture_default_str();
  verb.add_option("--chunks", o->eval.chunks, "windows to use (default: all)");
  verb.add_option("--bos", o->bos, "put BOS in the place of each window's first token")
      ->check(CLI::IsMember({"auto", "yes", "no"}))
      ->capture_default_str();
  verb.add_option("--skip-first", o->eval.skip_first, "predictions left out at the start of each window")
      ->capture_default_str();
  verb.add_option("--seed", o->seed, "for sampled text")->capture_default_str();
  verb.add_option("--tasks", o->tasks,
                  "multiple-choice items, one JSON object a line: {\"context\", \"choices\", \"label\"}")
      ->allow_extra_args(false);
  verb.add_option("--ids", o->ids, "token ids instead of text: 1,2,3 (with --logits)");
  verb.add_option("--logits", o->logits, "write the logits of --ids to this .safetensors file");
  verb.add_option("--fail-if", o->gates, "exit 3 when true: a JSON path, a comparison, a number ('kld.mean>0.05')")
      ->allow_extra_args(false);
  add_run_flags(verb, o->flags, "fp32", "f32");
  verb.callback([o] {
    o->eval.cache = o->flags.cache_type();
    run(*o);
  });
}

}  // namespace nibble::cli

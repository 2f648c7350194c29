#include <iostream>

#include "algo/algorithm.h"
#include "cli/verb.h"
#include "core/text.h"
#include "pipeline/gate.h"
#include "pipeline/onnx_plan.h"
#include "pipeline/presets.h"
#include "pipeline/quantize.h"
#include "pipeline/recipe.h"
#include "pipeline/torchchat.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble quantize model/ -o model-int4 --scheme W4A16\n"
    "  nibble quantize model.gguf -o out --bits 3 --group-size 64 --asym --algorithm search\n"
    "  nibble quantize model/ -o out --scheme W4A16 --rule '.*down_proj:bits=8,group=64' --skip "
    "'model\\.layers\\.0\\.'\n"
    "  nibble quantize model/ -o out --quant '{\"linear:int4\": {\"groupsize\": 32}, \"embedding\": {\"bitwidth\": 8, "
    "\"groupsize\": 0}}'\n"
    "  nibble quantize model/ -o out --scheme W4A16 --effort balanced\n"
    "  nibble quantize model/ -o out --bits 3 --group-size 64 --asym --algorithm awq,gptq --calib text.txt --samples "
    "64\n"
    "  nibble quantize model/ -o model.gguf --format gguf:Q4_K_M --stats imatrix.gguf\n"
    "  nibble quantize model.onnx -o out --format onnx --bits 4 --group-size 32 --asym\n"
    "  nibble quantize model.onnx -o out --format onnx --scheme W8A8-static --smoothquant 0.7\n"
    "  nibble quantize model/ --scheme NF4 --dry-run\n";

struct Options {
  Common common;
  std::string model, out;
  std::string recipe, quant, effort, scheme, group_size, granularity, grid, lm_head, embedding, algorithm, dtype,
      format = "hf";
  std::string calib_bos, stats, ort, compute, memory, smoothquant, act, act_observer, kv_cache_scheme, dynamic_ranges;
  CalibrationChange calibration;
  std::optional<int> bits, act_bits;
  bool sym = false, asym = false, full_range = false, force = false, resume = false, no_fallback = false,
       no_last_matmul = false, dry_run = false;
  std::optional<bool> true_sequential;
  std::optional<int> accuracy_level;
  std::vector<std::string> skip, rules, settings, gates;
};

// Errors of values typed on the command line start with their flag.
template <class Body>
void flag(const char* name, const Body& body) {
  with_context([&] { return name; }, body);
}

// A recipe says most of it, a dictionary overrides it, single flags override both; patterns add up.
QuantizeRequest request_of(const Options& o) {
  QuantizeRequest request;
  if (!o.recipe.empty()) apply_recipe_file(o.recipe, request);
  if (!o.quant.empty()) flag("--quant", [&] { apply_torchchat(o.quant, request); });
  if (!o.scheme.empty()) {
    QuantizeRequest dictionary;
    if (!o.quant.empty()) apply_torchchat(o.quant, dictionary);
    if (!dictionary.change.empty())
      throw Error(ErrorKind::kUsage, "--scheme and --quant both say how to quantize the linears; keep one");
    request.scheme = o.scheme;
  }
  if (const auto scheme = scheme_in_formats(o.format)) {
    if (request.scheme)
      throw Error(ErrorKind::kUsage,
                  cat("--format ", o.format, " and --scheme ", *request.scheme, " both say how to quantize; keep one"));
    request.scheme = scheme;
  }
  if (o.bits) request.change.bits = o.bits;
  if (!o.group_size.empty()) flag("--group-size", [&] { request.change.group = parse_group(o.group_size); });
  if (!o.granularity.empty()) apply_granularity(o.granularity, request.change);
  if (o.sym) request.change.symmetric = true;
  if (o.asym) request.change.symmetric = false;
  if (o.full_range) request.change.full_range = true;
  if (!o.act.empty()) flag("--act", [&] { request.change.act = parse_activation_mode(o.act); });
  if (o.act_bits) request.change.act_bits = o.act_bits;
  if (!o.act_observer.empty()) flag("--act-observer", [&] { request.observer = parse_observer(o.act_observer); });
  if (!o.kv_cache_scheme.empty())
    flag("--kv-cache-scheme", [&] { request.fp8_cache = parse_cache_scheme(o.kv_cache_scheme); });
  if (!o.grid.empty()) flag("--grid", [&] { request.change.grid = parse_grid(o.grid); });
  if (!o.lm_head.empty()) flag("--lm-head", [&] { request.lm_head = parse_table(o.lm_head); });
  if (!o.embedding.empty()) flag("--embedding", [&] { request.embedding = parse_table(o.embedding); });
  request.skip.insert(request.skip.end(), o.skip.begin(), o.skip.end());
  for (const std::string& text : o.rules) request.rules.push_back(parse_rule(text));
  if (!o.algorithm.empty()) request.algorithm = o.algorithm;
  for (const std::string& text : o.settings) flag("--set", [&] { parse_setting(text, request); });
  if (o.calibration.from) request.calibration.from = o.calibration.from;
  if (o.calibration.samples) request.calibration.samples = o.calibration.samples;
  if (o.calibration.seqlen) request.calibration.seqlen = o.calibration.seqlen;
  if (o.calibration.seed) request.calibration.seed = o.calibration.seed;
  if (!o.stats.empty()) request.stats = o.stats;
  if (!o.ort.empty()) request.ort = o.ort;
  if (!o.compute.empty()) flag("--compute", [&] { request.bf16 = parse_calibration_compute(o.compute); });
  if (o.true_sequential) request.true_sequential = o.true_sequential;
  if (!o.memory.empty()) flag("--memory", [&] { request.memory = parse_bytes(o.memory); });
  if (!o.calib_bos.empty()) flag("--calib-bos", [&] { request.calibration.bos = parse_bos_choice(o.calib_bos); });
  if (!o.dtype.empty()) flag("--dtype", [&] { request.dtype = parse_float_dtype(o.dtype); });
  if (o.no_fallback) request.allow_fallback = false;
  if (o.no_last_matmul) request.last_matmul = false;
  if (o.accuracy_level) request.accuracy_level = *o.accuracy_level;
  if (!o.dynamic_ranges.empty()) request.tensor_ranges = parse_dynamic_ranges(o.dynamic_ranges);
  if (!o.smoothquant.empty()) flag("--smoothquant", [&] { request.smoothquant = parse_smoothquant(o.smoothquant); });
  if (!o.effort.empty()) request.effort = o.effort;
  return request;
}

void run(const Options& o) {
  o.common.apply();
  QuantizeRequest request = request_of(o);
  const std::vector<Gate> gates = parse_gates(o.gates);
  const auto formats = parse_formats(o.format);
  request.scale_dtype = common_scale_dtype(formats);
  if (o.out.empty() && !o.dry_run)
    throw Error(ErrorKind::kUsage, "say where to write the model with -o OUT, or look at the plan with --dry-run");
  const auto source = open_to_quantize(o.model, request, formats);
  const QuantizePlan plan = make_plan(*source, request, formats.front());
  for (const ExporterEntry* format : formats) check_output(*format, output_model(*source, plan, *format));
  if (o.dry_run) {
    const OrderedJson result = {
        {"dry_run", true}, {"bpw", plan.bits_per_weight()}, {"bytes", plan.bytes_after}, {"plan", to_json(plan)}};
    if (o.common.prints()) {
      std::cout << plan_table(plan);
      for (const std::string& warning : plan.warnings) std::cout << "note: " << warning << '\n';
    }
    o.common.emit(result);
    return check_gates(gates, result);
  }
  if (plan.calibration && plan.calibration->samples == 0)
    o.common.note(
        cat("no calibration tokens are needed; predicted peak memory ", format_bytes(plan.predicted_peak_bytes)));
  else if (plan.onnx_runtime)
    o.common.note(cat("calibrating on ", plan.calibration->from, ", at most ", plan.calibration->samples,
                      " samples, with ONNX Runtime"));
  else if (plan.calibration)
    o.common.note(cat("calibrating on ", plan.calibration->from, ", at most ", plan.calibration->samples, " x ",
                      plan.calibration->seqlen, " tokens; predicted peak memory ",
                      format_bytes(plan.predicted_peak_bytes)));
  const auto quantize = [&] {
    try {
      return run_plan(*source, plan, formats, o.out, {o.force, o.resume}, *o.common.progress("quantize"));
    } catch (const Error& error) {
      if (plan.calibration && !plan.onnx_runtime && error.kind() == ErrorKind::kInterrupted)
        o.common.note(cat("finished blocks are kept in ", o.out, ".partial: the same command with --resume goes on"));
      throw;
    }
  };
  const QuantizeResult result = quantize();
  const OrderedJson json = to_json(result, plan);
  if (o.common.prints() && !o.common.quiet) std::cout << summary(result, plan) << "written   " << o.out << '\n';
  o.common.emit(json);
  check_gates(gates, json);
}

void help_algorithms() {
  for (const AlgorithmEntry& entry : algorithms()) {
    std::cout << entry.name << ": " << entry.summary << '\n';
    for (const AlgorithmOption& option : entry.options)
      std::cout << "  --set " << entry.name << '.' << option.name << '=' << option.value << "   " << option.help << " ("
                << option.low << " to " << option.high << ")\n";
  }
}

}  // namespace

void add_quantize(CLI::App& app);
void add_quantize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  const std::shared_ptr<Common> common(o, &o->common);
  CLI::App& verb =
      add_verb(app, "quantize", "make a model smaller: choose bits, grids and what to leave alone", kExamples, common);
  verb.add_option("model", o->model, "Hugging Face folder, .gguf or .onnx file")->required()->type_name("MODEL");
  verb.add_option("-o,--output", o->out, "folder (gguf: file) to write; appears only when everything is written")
      ->type_name("OUT");

  const std::string what = "What";
  verb.add_option("--scheme", o->scheme, cat("preset: ", join(preset_names(), ", ")))->type_name("NAME")->group(what);
  verb.add_option("--bits", o->bits, "bits of a weight, 1 to 8")->check(CLI::Range(1, 8))->type_name("N")->group(what);
  verb.add_option("--group-size", o->group_size,
                  "columns that share a scale (default 128); 0 or -1: one scale for each row")
      ->type_name("N")
      ->group(what);
  verb.add_option("--granularity", o->granularity, "tensor: one scale for a whole matrix; channel; group")
      ->type_name("NAME")
      ->group(what);
  auto* sym = verb.add_flag("--sym", o->sym, "symmetric grid, no zero points (default)")->group(what);
  verb.add_flag("--asym", o->asym, "zero points for each group")->excludes(sym)->group(what);
  verb.add_flag("--full-range", o->full_range, "symmetric grid that uses its lowest code too (signed scales)")
      ->group(what);
  verb.add_option("--grid", o->grid, "int, nf4, fp4, fp4_bnb or fp8")->type_name("NAME")->group(what);
  verb.add_option("--act", o->act,
                  "how inputs of products are quantized: none, dynamic (ranges found while running), or static (ranges "
                  "from calibration)")
      ->type_name("NAME")
      ->group(what);
  verb.add_option("--act-bits", o->act_bits, "bits of quantized inputs, 2 to 8 (default 8)")
      ->check(CLI::Range(2, 8))
      ->type_name("N")
      ->group(what);
  verb.add_option("--kv-cache-scheme", o->kv_cache_scheme,
                  "hf: fp8 writes scales for keys and values, found by calibration, for engines that keep them in E4M3 "
                  "(default none)")
      ->type_name("NAME")
      ->group(what);
  verb.add_option("--lm-head", o->lm_head, "keep (default), or BITS[:GROUP]")->type_name("SPEC")->group(what);
  verb.add_option("--embedding", o->embedding, "keep (default), or BITS[:GROUP]")->type_name("SPEC")->group(what);
  verb.add_option("--skip", o->skip, "leave modules alone whose name starts with a match; repeatable")
      ->type_name("REGEX")
      ->allow_extra_args(false)
      ->group(what);
  verb.add_option("--rule", o->rules,
                  "REGEX:bits=8,group=64,sym,algo=rtn for modules whose name starts with a match; repeatable, the last "
                  "match wins")
      ->type_name("RULE")
      ->allow_extra_args(false)
      ->group(what);
  verb.add_option("--recipe", o->recipe, "JSON file with any of these flags as keys")->type_name("FILE")->group(what);
  verb.add_option("--quant,--quantize", o->quant, "torchchat's quantization dictionary")
      ->type_name("JSON")
      ->group(what);

  const std::string how = "How";
  verb.add_option("--algorithm", o->algorithm, "how codes are chosen (default rtn); see --help-algorithms")
      ->type_name("NAME")
      ->group(how);
  verb.add_option("--effort", o->effort,
                  "fast, balanced or best: algorithm, options and calibration together, unless --algorithm says")
      ->type_name("LEVEL")
      ->group(how);
  verb.add_option("--smoothquant", o->smoothquant,
                  "before the algorithm, move difficulty from activations to weights: a share from 0 to 1, or auto")
      ->type_name("ALPHA")
      ->group(how);
  verb.add_option("--set", o->settings, "an algorithm's option, such as rtn.clip=0.95; repeatable")
      ->type_name("A.B=X")
      ->allow_extra_args(false)
      ->group(how);
  verb.add_flag_callback(
          "--help-algorithms",
          [] {
            help_algorithms();
            throw CLI::Success();
          },
          "list the algorithms and their options")
      ->trigger_on_parse()
      ->group(how);
  verb.add_flag("--no-fallback", o->no_fallback, "a preset's group that does not divide a row is an error")->group(how);

  const std::string calibration = "Calibration (algorithms that look at activations)";
  verb.add_option(
          "--calib", o->calibration.from,
          "self (default): text sampled from the model; or a file: .txt, .jsonl with `text`, `messages` or "
          "`ids` in each line; for ONNX graphs of any kind a .npz, or a folder of such, with the graph's inputs")
      ->type_name("FILE")
      ->group(calibration);
  verb.add_option("--stats", o->stats,
                  "saved statistics in the place of calibration: of `nibble calibrate`, or llama.cpp's imatrix")
      ->type_name("FILE")
      ->group(calibration);
  verb.add_option(
          "--ort", o->ort,
          "ONNX Runtime's library, or the folder that holds it: it runs ONNX graphs that are no decoders nibble "
          "knows (default: NIBBLE_ORT, or the Python package)")
      ->type_name("PATH")
      ->group(calibration);
  verb.add_option("--samples", o->calibration.samples, "documents to use, at most (default 128)")
      ->type_name("N")
      ->group(calibration);
  verb.add_option("--seqlen", o->calibration.seqlen, "tokens of a document (default 512)")
      ->type_name("N")
      ->group(calibration);
  verb.add_option("--seed", o->calibration.seed, "of the sampled text (default 0)")->type_name("N")->group(calibration);
  verb.add_option("--compute", o->compute,
                  "fp32 or bf16: arithmetic of the calibration forward (default bf16 where the CPU has fast "
                  "instructions for it)")
      ->type_name("NAME")
      ->group(calibration);
  // Not bound to the variable: CLI11 would count in it, from 0 on, which is false.
  verb.add_flag_function(
          "--true-sequential,!--no-true-sequential", [o](int64_t count) { o->true_sequential = count > 0; },
          "a layer's inputs come from the block's layers quantized so far, or from its float weights (default: "
          "the former, with 2 bits or fewer the latter)")
      ->group(calibration);
  verb.add_option("--act-observer", o->act_observer,
                  "range of static inputs: minmax (default), percentile[:P] (P % of the values, default 99.99), or "
                  "entropy (least divergence)")
      ->type_name("NAME")
      ->group(calibration);
  verb.add_option("--memory", o->memory,
                  "for activations, such as 1G (default 128Mi); beyond it they go to a file in OUT.partial")
      ->type_name("SIZE")
      ->group(calibration);
  verb.add_option("--calib-bos", o->calib_bos,
                  "put BOS in the place of each document's first token: no (default), yes, or auto: if the tokenizer "
                  "adds it")
      ->type_name("CHOICE")
      ->group(calibration);

  std::vector<std::string> formats;
  for (const ExporterEntry& entry : exporters()) formats.push_back(cat(entry.name, " (", entry.summary, ")"));
  const std::string output = "Output";
  verb.add_option("--format", o->format, cat("one or several, comma-separated: ", join(formats, "; ")))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(output);
  verb.add_option("--dtype", o->dtype,
                  "fp32, bf16 or fp16: of scales and of what is not quantized (default: as in the source)")
      ->type_name("TYPE")
      ->group(output);
  verb.add_flag("--no-last-matmul", o->no_last_matmul,
                "onnx: keep the last product (lm_head), which is else quantized too")
      ->group(output);
  verb.add_option(
          "--accuracy-level", o->accuracy_level,
          "onnx: how ONNX Runtime may round the inputs of products: 0 (default) to 3 not at all, 4 to int8, which is "
          "faster")
      ->check(CLI::Range(0, 4))
      ->type_name("N")
      ->group(output);
  verb.add_option("--dynamic-ranges", o->dynamic_ranges,
                  "onnx with --act dynamic: token (default), or tensor: one range for all tokens of a run, which is "
                  "faster and less exact (DynamicQuantizeLinear)")
      ->check(CLI::IsMember({"token", "tensor"}))
      ->type_name("NAME")
      ->group(output);
  verb.add_flag("--force", o->force, "replace OUT if it exists")->group(output);
  verb.add_flag("--resume", o->resume, "continue an interrupted run with calibration behind its last finished block")
      ->group(output);
  verb.add_flag("--dry-run", o->dry_run, "print the plan, do nothing")->group(output);
  verb.add_option("--fail-if", o->gates,
                  "exit with 3 when this holds for the JSON result, such as 'bpw>4.6'; repeatable")
      ->type_name("EXPR")
      ->allow_extra_args(false)
      ->group(output);
  verb.callback([o] { run(*o); });
}

}  // namespace nibble::cli

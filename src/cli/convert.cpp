#include <iostream>

#include "cli/verb.h"
#include "core/text.h"
#include "export/gguf_scheme.h"
#include "pipeline/quantize.h"
#include "pipeline/quantize_request.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble convert quantized/ -o floats --format fake --dtype bf16    (dequantize)\n"
    "  nibble convert model.gguf -o folder --format hf                   (same codes in another file)\n"
    "  nibble convert gptq-folder/ -o awq-folder --format awq\n"
    "  nibble convert model/ -o model.gguf --format gguf                 (for llama.cpp)\n";

struct Options {
  Common common;
  std::string model, out, format, dtype;
  bool force = false, allow_requantize = false;
};

void run(const Options& o) {
  o.common.apply();
  const std::vector<const ExporterEntry*> formats = parse_formats(o.format);
  if (formats.size() != 1) throw Error(ErrorKind::kUsage, "convert writes one format at a time");
  const ExporterEntry& format = *formats.front();
  std::optional<DType> dtype;
  if (!o.dtype.empty()) dtype = parse_float_dtype(o.dtype);
  if (const auto scheme = scheme_in_formats(o.format)) {
    const DType type = find_gguf_scheme(*scheme)->base;
    if (is_block_type(type))
      throw Error(ErrorKind::kUsage, cat("--format ", o.format,
                                         " quantizes: that is `nibble quantize`; convert keeps "
                                         "codes as they are (--format gguf) or makes floats (gguf:F16)"));
    dtype = type;
  }
  const auto source = Source::open(o.model);
  const QuantizePlan plan = make_convert_plan(*source, dtype, format, o.allow_requantize);
  const QuantizeResult result =
      run_plan(*source, plan, {&format}, o.out, {.force = o.force}, *o.common.progress("convert"));
  if (o.common.prints() && !o.common.quiet) std::cout << summary(result, plan) << "written   " << o.out << '\n';
  o.common.emit(to_json(result, plan));
}

}  // namespace

void add_convert(CLI::App& app);
void add_convert(CLI::App& app) {
  auto o = std::make_shared<Options>();
  const std::shared_ptr<Common> common(o, &o->common);
  CLI::App& verb =
      add_verb(app, "convert", "write a model in another format, without quantizing again", kExamples, common);
  verb.alias("export");
  std::vector<std::string> formats;
  for (const ExporterEntry& entry : exporters()) formats.push_back(cat(entry.name, " (", entry.summary, ")"));
  verb.add_option("model", o->model, "Hugging Face folder or .gguf file")->required()->type_name("MODEL");
  verb.add_option("-o,--output", o->out, "folder (gguf: file) to write; appears only when everything is written")
      ->required()
      ->type_name("OUT");
  verb.add_option("--format", o->format, join(formats, "; "))->required()->type_name("NAME");
  verb.add_option("--dtype", o->dtype, "fp32, bf16 or fp16: of floats (default: as in the source)")->type_name("TYPE");
  verb.add_flag("--allow-requantize", o->allow_requantize,
                "round values anew to the nearest form that the format can hold, where it cannot hold their codes");
  verb.add_flag("--force", o->force, "replace OUT if it exists");
  verb.callback([o] { run(*o); });
}

}  // namespace nibble::cli

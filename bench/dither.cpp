// Writes a copy of a quantized model as a Hugging Face folder of floats in which every quantized weight has moved by a
// random part of its own quantization step, uniformly from -1/2 to 1/2 of it. A model that was published quantized lies
// on a grid, and a quantizer that finds that grid again looks better than it is; the copy lies on none and is nearly as
// good a model. It is then the reference. The same seed gives the same bytes on every machine and for any number of
// threads.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>

#include "core/text.h"
#include "core/threads.h"
#include "export/exporter.h"
#include "export/float_bytes.h"
#include "model/source.h"
#include "pipeline/plan.h"
#include "pipeline/quantize_request.h"
#include "pipeline/row_slices.h"

namespace nibble {
namespace {

struct Options {
  std::string model, out, dtype = "bf16";
  uint64_t seed = 0;
  size_t threads = 0;
  bool force = false;
};

// From -1/2 to 1/2, a function of tensor and element alone: one output of SplitMix64.
float noise(uint64_t stream, size_t i) {
  uint64_t z = stream + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int32_t>(z >> 40) - (1 << 23)) * 0x1p-24f;
}

void add_noise(const StoredTensor& tensor, size_t begin, size_t end, uint64_t stream, std::vector<float>& values) {
  const QuantizedMatrix codes = tensor.read_codes(begin, end);
  if (codes.spec.grid != Grid::kInt)
    throw Error(ErrorKind::kUnsupported, cat(tensor.name(), ": ", tensor.type_name(), " has no uniform step"));
  const size_t groups = codes.groups(), size = codes.spec.group_size(codes.cols);
  for (size_t r = 0; r < codes.rows; ++r)
    for (size_t c = 0; c < codes.cols; ++c) {
      const size_t group = codes.group_of.empty() ? c / size : codes.group_of[c];
      const float step = std::abs(codes.scales[codes.spec.per_tensor ? 0 : r * groups + group]);
      values[r * codes.cols + c] += step * noise(stream, (begin + r) * codes.cols + c);
    }
}

void dither(const Options& o) {
  set_thread_count(o.threads);
  const auto source = Source::open(o.model);
  const ExporterEntry& format = find_exporter("fake");
  const QuantizePlan plan = make_convert_plan(*source, parse_float_dtype(o.dtype), format);
  const auto exporter = format.make(o.out, o.force, output_model(*source, plan, format));
  size_t moved = 0;
  for (size_t t = 0; t < plan.tensors.size(); ++t) {
    const PlannedTensor& planned = plan.tensors[t];
    const StoredTensor& tensor = *planned.source;
    const uint64_t stream = (o.seed * 0x100000001b3u + t + 1) * 0xd6e8feb86659fd93u;
    parallel_for(tensor.rows(), slice_rows(tensor.cols()), [&](size_t begin, size_t end) {
      std::vector<float> values = read_finite(tensor, begin, end);
      if (tensor.spec()) add_noise(tensor, begin, end, stream, values);
      exporter->write(t, begin, end - begin, float_bytes(values, planned.dtype));
    });
    moved += tensor.spec() ? element_count(tensor.shape()) : 0;
  }
  if (moved == 0)
    throw Error(ErrorKind::kUsage, cat(o.model, " holds no quantized tensors: there is no step to move by"));
  exporter->finish();
  std::cerr << o.out << ": " << format_fixed(static_cast<double>(moved) / 1e6, 1) << " of "
            << format_fixed(static_cast<double>(plan.parameters) / 1e6, 1) << " million weights moved\n";
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app("Moves each weight of a quantized model by up to half its quantization step.", "dither");
  app.add_option("model", o.model, "quantized: a .gguf file, or a folder")->required();
  app.add_option("out", o.out, "folder to write")->required();
  app.add_option("--dtype", o.dtype, "bf16, fp16 or fp32")->capture_default_str();
  app.add_option("--seed", o.seed, "of the noise")->capture_default_str();
  app.add_option("--threads", o.threads, "0: one for each physical core")->capture_default_str();
  app.add_flag("--force", o.force, "replace an existing folder");
  try {
    app.parse(argc, argv);
    dither(o);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << "dither: " << error.what() << '\n';
    return error.kind() == ErrorKind::kUsage ? 2 : 1;
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::run(argc, argv); }

#include "pipeline/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "core/files.h"
#include "core/interrupt.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/usage.h"
#include "export/float_bytes.h"
#include "export/gguf_scheme.h"
#include "kernels/kernels.h"
#include "pipeline/calibrated_run.h"
#include "pipeline/journal.h"
#include "pipeline/onnx_calibrated_run.h"
#include "pipeline/row_slices.h"

namespace nibble {
namespace {

using Action = PlannedTensor::Action;

struct Energy {
  double signal = 0, error = 0;
};

// Sums of w^2 and (w - w')^2. `weights` holds the differences afterwards.
Energy measure(std::vector<float>& weights, const QuantizedMatrix& quantized) {
  std::vector<float> restored(weights.size());
  dequantize(quantized, matrix(restored.data(), quantized.rows, quantized.cols));
  Energy energy;
  const kernels::Table& table = kernels::active();
  for (size_t r = 0; r < quantized.rows; ++r) {
    float* w = weights.data() + r * quantized.cols;
    const float* v = restored.data() + r * quantized.cols;
    energy.signal += table.dot_f32(w, w, quantized.cols);
    for (size_t c = 0; c < quantized.cols; ++c) w[c] -= v[c];
    energy.error += table.dot_f32(w, w, quantized.cols);
  }
  return energy;
}

double decibels(const Energy& energy) {
  constexpr double kMost = 200;
  if (energy.error <= 0) return kMost;
  if (energy.signal <= 0) return -kMost;
  return std::clamp(10 * std::log10(energy.signal / energy.error), -kMost, kMost);
}

double ratio(const Energy& energy) {
  if (energy.error <= 0) return 0;
  return energy.signal <= 0 ? std::numeric_limits<double>::max() : energy.error / energy.signal;
}

// One run: what its threads share.
class Run {
 public:
  // `calibrated`: what quantize_blocks() made of the plan's calibrated tensors.
  Run(const QuantizePlan& plan, const CalibratedTensors& calibrated, const std::vector<const ExporterEntry*>& formats,
      std::vector<std::unique_ptr<Exporter>>& exporters, Progress& progress)
      : plan_(plan),
        calibrated_(calibrated),
        formats_(formats),
        exporters_(exporters),
        progress_(progress),
        rows_left_(plan.tensors.size()),
        ranges_(plan.tensors.size()) {
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      const PlannedTensor& planned = plan.tensors[i];
      rows_left_[i] = planned.source->rows();
      total_ += element_count(planned.source->shape());
      append_slices(i, *planned.source, slices_);
    }
    energies_.resize(slices_.size());
  }

  void work() {
    for (size_t i = 0; i < plan_.tensors.size(); ++i)
      if (plan_.tensors[i].action == Action::kQuantize && plan_.tensors[i].spec->per_tensor &&
          !plan_.tensors[i].calibrated)
        ranges_[i] = tensor_range(*plan_.tensors[i].source);
    parallel_for(slices_.size(), 1, [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) {
        check_interrupted();
        with_context([&] { return plan_.tensors[slices_[i].tensor].name; }, [&] { do_slice(i); });
        report(slices_[i]);
      }
    });
  }

  std::vector<LayerReport> layers() const {
    std::vector<Energy> sums(plan_.tensors.size());
    for (size_t i = 0; i < slices_.size(); ++i) {
      sums[slices_[i].tensor].signal += energies_[i].signal;
      sums[slices_[i].tensor].error += energies_[i].error;
    }
    std::vector<LayerReport> reports;
    for (size_t i = 0; i < sums.size(); ++i) {
      const PlannedTensor& planned = plan_.tensors[i];
      if (planned.action != Action::kQuantize) continue;
      LayerReport report{planned.module(), *planned.spec, planned.algorithm, decibels(sums[i]), ratio(sums[i]), 0, 0,
                         planned.fallback};
      if (planned.calibrated) {
        const LayerMeasure& measure = calibrated_.measures.find(planned.name)->second;
        const Energy weights{measure.signal, measure.error}, outputs{measure.output_signal, measure.output_error};
        report.weight_sqnr_db = decibels(weights);
        report.output_error = measure.output_signal > 0 ? ratio(outputs) : ratio(weights);
        report.percdamp = measure.percdamp;
        report.seconds = measure.seconds;
        report.fallback += cat(report.fallback.empty() || measure.fallback.empty() ? "" : "; ", measure.fallback);
      }
      reports.push_back(std::move(report));
    }
    return reports;
  }

 private:
  void do_slice(size_t index) {
    const RowSlice& slice = slices_[index];
    const PlannedTensor& planned = plan_.tensors[slice.tensor];
    const StoredTensor& source = *planned.source;
    switch (planned.action) {
      case Action::kQuantize: {
        if (planned.calibrated) {
          const PackedMatrix& weight = calibrated_.weights.find(planned.name)->second;
          const QuantizedMatrix codes = unpack_rows(weight, slice.begin, slice.end);
          for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, codes);
          break;
        }
        std::vector<float> weights = read_finite(source, slice.begin, slice.end);
        const AlgorithmChain& algorithm = *plan_.algorithms.find(planned.algorithm)->second;
        const MatrixView<const float> view =
            matrix<const float>(weights.data(), slice.end - slice.begin, source.cols());
        const QuantizedMatrix quantized =
            algorithm.quantize({view, *planned.spec, ranges_[slice.tensor], plan_.inputs_of(planned.name)});
        if (const auto row = unstorable_scale(quantized))
          throw Error(ErrorKind::kUsage,
                      cat("the scale of row ", slice.begin + *row, " does not fit F16; try --dtype bf16 or fp32"));
        for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, quantized);
        energies_[index] = measure(weights, quantized);
        break;
      }
      case Action::kMoveCodes: {
        const QuantizedMatrix codes = source.read_codes(slice.begin, slice.end);
        for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, codes);
        break;
      }
      case Action::kMoveBlocks: {
        std::vector<std::byte> blocks, values;
        for (size_t i = 0; i < exporters_.size(); ++i) {
          auto& bytes = formats_[i]->blocks ? blocks : values;
          if (bytes.empty())
            bytes = formats_[i]->blocks ? source.read_blocks(slice.begin, slice.end)
                                        : float_bytes(floats(planned, slice), planned.dtype);
          exporters_[i]->write(slice.tensor, slice.begin, slice.end - slice.begin, bytes);
        }
        break;
      }
      case Action::kFloat: {
        const bool plain =
            planned.dtype == DType::kF32 || planned.dtype == DType::kF16 || planned.dtype == DType::kBF16;
        if (plain) {
          write(slice, float_bytes(floats(planned, slice), planned.dtype));
        } else {  // integers, doubles: as they are
          const auto view = source.view();
          if (!view) throw Error(ErrorKind::kUnsupported, cat("cannot copy ", source.type_name(), " values"));
          const size_t row = byte_size(view->dtype, source.cols());
          write(slice, view->bytes.subspan(slice.begin * row, (slice.end - slice.begin) * row));
        }
        break;
      }
    }
  }

  // A calibrated run may have moved factors into norms and biases.
  std::vector<float> floats(const PlannedTensor& planned, const RowSlice& slice) const {
    const auto changed = calibrated_.vectors.find(planned.name);
    if (changed == calibrated_.vectors.end()) return read_finite(*planned.source, slice.begin, slice.end);
    const auto begin = changed->second.begin();
    const auto cols = static_cast<std::ptrdiff_t>(planned.source->cols());
    return {begin + static_cast<std::ptrdiff_t>(slice.begin) * cols,
            begin + static_cast<std::ptrdiff_t>(slice.end) * cols};
  }

  void write(const RowSlice& slice, std::span<const std::byte> bytes) {
    for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, slice.end - slice.begin, bytes);
  }

  void report(const RowSlice& slice) {
    const StoredTensor& source = *plan_.tensors[slice.tensor].source;
    const size_t rows = slice.end - slice.begin;
    source.release(slice.begin, slice.end);
    // Pages that two slices share stay behind until the whole tensor is done.
    if (rows_left_[slice.tensor].fetch_sub(rows) == rows) {
      source.release(0, source.rows());
      const PlannedTensor& planned = plan_.tensors[slice.tensor];
      if (planned.calibrated && planned.action == Action::kQuantize) {  // its codes are those of a mapped file
        const PackedMatrix& weight = calibrated_.weights.find(planned.name)->second;
        release_pages({reinterpret_cast<const std::byte*>(weight.codes), weight.rows * weight.row_stride});
      }
    }
    const std::lock_guard lock(mutex_);
    done_ += rows * source.cols();
    progress_.update(done_, total_, plan_.tensors[slice.tensor].name);
  }

  const QuantizePlan& plan_;
  const CalibratedTensors& calibrated_;
  const std::vector<const ExporterEntry*>& formats_;
  std::vector<std::unique_ptr<Exporter>>& exporters_;
  Progress& progress_;
  std::vector<RowSlice> slices_;
  std::vector<Energy> energies_;                // of each slice, so that sums have one order
  std::vector<std::atomic<size_t>> rows_left_;  // of each tensor
  std::vector<std::pair<float, float>> ranges_;
  std::mutex mutex_;
  size_t done_ = 0, total_ = 0;  // elements
};

// Names may have a colon of their own ("gptq:v2"); what else stands behind one is a type ("gguf:Q4_0").
const ExporterEntry& format_of(const std::string& name) {
  const auto all = exporters();
  const auto whole =
      std::find_if(all.begin(), all.end(), [&](const ExporterEntry& entry) { return entry.name == name; });
  return whole != all.end() ? *whole : find_exporter(name.substr(0, name.find(':')));
}

}  // namespace

std::vector<const ExporterEntry*> parse_formats(const std::string& text) {
  std::vector<const ExporterEntry*> formats;
  for (const std::string& name : split(text, ',')) {
    const ExporterEntry* format = &format_of(name);
    if (std::find(formats.begin(), formats.end(), format) != formats.end())
      throw Error(ErrorKind::kUsage, cat("format '", name, "' is given twice"));
    formats.push_back(format);
  }
  return formats;
}

std::optional<DType> common_scale_dtype(const std::vector<const ExporterEntry*>& formats) {
  const ExporterEntry* chosen = nullptr;
  for (const ExporterEntry* format : formats) {
    if (!format->scale_dtype) continue;
    if (chosen == nullptr) chosen = format;
    if (*chosen->scale_dtype != *format->scale_dtype)
      throw Error(ErrorKind::kUsage, cat("formats ", chosen->name, " and ", format->name, " store scales as ",
                                         info(*chosen->scale_dtype).name, " and ", info(*format->scale_dtype).name,
                                         ": write them in two runs"));
  }
  return chosen == nullptr ? std::nullopt : chosen->scale_dtype;
}

std::optional<std::string> scheme_in_formats(const std::string& text) {
  std::optional<std::string> scheme;
  for (const std::string& name : split(text, ',')) {
    const ExporterEntry& format = format_of(name);
    if (name == format.name) continue;
    const std::string type = name.substr(format.name.size() + 1);
    if (!format.blocks) throw Error(ErrorKind::kUsage, cat("format '", format.name, "' has no types of its own"));
    if (!find_gguf_scheme(type))
      throw Error(ErrorKind::kUsage,
                  cat("unknown GGUF type '", type, "'; known are ", join(gguf_scheme_names(), ", ")));
    scheme = type;
  }
  return scheme;
}

namespace {

// Everything that decides what a calibrated run computes.
std::string journal_key(const Source& source, const QuantizePlan& plan) {
  const CalibrationChoice& calibration = *plan.calibration;
  OrderedJson planned = to_json(plan);
  planned.erase("predicted_peak_bytes");  // --memory may change
  OrderedJson key = {{"source", std::filesystem::absolute(source.path()).string()},
                     {"plan", planned},
                     {"settings", plan.settings},
                     {"calibration",
                      {calibration.from, calibration.samples, calibration.seqlen, calibration.seed,
                       static_cast<int>(calibration.bos)}},
                     {"stream", {plan.stream.bf16, plan.stream.true_sequential, describe(plan.stream.observer)}},
                     {"kernels", kernels::active().name}};
  return key.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

CalibrationData calibration_data(const Source& source, const QuantizePlan& plan, const std::filesystem::path& work,
                                 bool resume, Progress& progress) {
  const std::string key = journal_key(source, plan);
  if (resume)
    if (auto journal = read_journal(work, key)) return std::move(journal->data);
  CalibrationData data{{}, "no tokens", {}};
  if (plan.calibration->samples != 0) data = load_calibration(source, *plan.calibration, progress);
  write_journal({key, data}, work);
  return data;
}

}  // namespace

QuantizeResult run_plan(const Source& source, const QuantizePlan& plan,
                        const std::vector<const ExporterEntry*>& formats, const std::filesystem::path& out,
                        const RunOptions& options, Progress& progress) {
  const double start = wall_seconds(), cpu_start = cpu_seconds();
  for (const ExporterEntry* format : formats) check_output(*format, output_model(source, plan, *format));
  QuantizeResult result;
  // With calibration the staging folder is the work folder too, and the model a part of it.
  std::optional<StagedOutput> together;
  CalibratedTensors calibrated;
  std::filesystem::path model_path = out;
  if (plan.onnx_runtime && options.resume)
    throw Error(ErrorKind::kUsage, "--resume: what ONNX Runtime calibrates starts again; leave it out");
  if (plan.calibration) {
    together.emplace(out, /*folder=*/true, options.force, options.resume);
    if (options.resume) together->keep();
    if (plan.onnx_runtime) {
      CalibratedGraph graph = quantize_graph(source, plan, together->path(), progress);
      calibrated = std::move(graph.tensors);
      result.calibration = std::move(graph.data);
    } else {
      result.calibration = calibration_data(source, plan, together->path(), options.resume, progress);
      together->keep();
      calibrated =
          quantize_blocks(source, plan, result.calibration->documents, plan.stream, together->path(), progress);
    }
    model_path = together->path() / "model";
    if (formats.size() > 1) {
      std::error_code failed;
      std::filesystem::remove_all(model_path, failed);
      std::filesystem::create_directory(model_path, failed);
      if (failed) throw io_error(cat("cannot create ", model_path.string()), failed.value());
    }
  } else if (formats.size() > 1) {
    together.emplace(out, /*folder=*/true, options.force);
    model_path = together->path();
  }
  std::vector<std::unique_ptr<Exporter>> exporters;
  exporters.reserve(formats.size());
  for (const ExporterEntry* format : formats) {
    OutputModel model = output_model(source, plan, *format);
    for (OutputTensor& tensor : model.tensors) {
      if (const auto inputs = calibrated.inputs.find(tensor.name); inputs != calibrated.inputs.end())
        tensor.activations = inputs->second;
      if (const auto factors = calibrated.input_factors.find(tensor.name); factors != calibrated.input_factors.end())
        tensor.input_factors = factors->second;
    }
    for (const auto& [name, scale] : calibrated.cache_scales) model.cache_scales[name] = scale;
    exporters.push_back(format->make(formats.size() > 1 ? model_path / format->name : model_path,
                                     together || options.force, std::move(model)));
  }

  Run run(plan, calibrated, formats, exporters, progress);
  run.work();
  check_interrupted();
  for (const auto& exporter : exporters) exporter->finish();
  if (plan.calibration)
    together->commit("model");
  else if (together)
    together->commit();
  result.layers = run.layers();
  result.bytes = exporters.front()->bytes();
  result.bits_per_weight =
      plan.parameters == 0 ? 0 : 8.0 * static_cast<double>(result.bytes) / static_cast<double>(plan.parameters);
  result.seconds = wall_seconds() - start;
  result.cpu_seconds = cpu_seconds() - cpu_start;
  result.peak_rss_bytes = peak_rss_bytes();
  return result;
}

}  // namespace nibble

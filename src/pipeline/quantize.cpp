#include "pipeline/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "core/files.h"
#include "core/interrupt.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/usage.h"
#include "export/float_bytes.h"
#include "kernels/kernels.h"
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

// One run: what its threads share.
class Run {
 public:
  Run(const QuantizePlan& plan, std::vector<std::unique_ptr<Exporter>>& exporters, Progress& progress)
      : plan_(plan),
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
      if (plan_.tensors[i].action == Action::kQuantize && plan_.tensors[i].spec->per_tensor)
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
      const double relative = sums[i].error <= 0    ? 0
                              : sums[i].signal <= 0 ? std::numeric_limits<double>::max()
                                                    : sums[i].error / sums[i].signal;
      reports.push_back(
          {planned.module(), *planned.spec, planned.algorithm, decibels(sums[i]), relative, planned.fallback});
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
        std::vector<float> weights = read_finite(source, slice.begin, slice.end);
        const AlgorithmChain& algorithm = *plan_.algorithms.find(planned.algorithm)->second;
        const MatrixView<const float> view =
            matrix<const float>(weights.data(), slice.end - slice.begin, source.cols());
        const QuantizedMatrix quantized = algorithm.quantize({view, *planned.spec, ranges_[slice.tensor]});
        check_scales(quantized, slice);
        for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, quantized);
        energies_[index] = measure(weights, quantized);
        break;
      }
      case Action::kMoveCodes: {
        const QuantizedMatrix codes = source.read_codes(slice.begin, slice.end);
        for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, codes);
        break;
      }
      case Action::kFloat: {
        const bool plain =
            planned.dtype == DType::kF32 || planned.dtype == DType::kF16 || planned.dtype == DType::kBF16;
        if (plain) {
          write(slice, float_bytes(read_finite(source, slice.begin, slice.end), planned.dtype));
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

  void write(const RowSlice& slice, std::span<const std::byte> bytes) {
    for (const auto& exporter : exporters_) exporter->write(slice.tensor, slice.begin, slice.end - slice.begin, bytes);
  }

  // Algorithms cut a scale that its type cannot hold down to the largest value: such a group lost its large weights.
  void check_scales(const QuantizedMatrix& quantized, const RowSlice& slice) const {
    constexpr float kLargestHalf = 65504;
    if (quantized.spec.scale_dtype != DType::kF16) return;
    const auto at = std::find_if(quantized.scales.begin(), quantized.scales.end(),
                                 [](float scale) { return std::abs(scale) >= kLargestHalf; });
    if (at == quantized.scales.end()) return;
    const auto row = static_cast<size_t>(at - quantized.scales.begin()) / std::max<size_t>(1, quantized.groups());
    throw Error(ErrorKind::kUsage,
                cat("the scale of row ", slice.begin + row, " does not fit F16; try --dtype bf16 or fp32"));
  }

  void report(const RowSlice& slice) {
    const StoredTensor& source = *plan_.tensors[slice.tensor].source;
    const size_t rows = slice.end - slice.begin;
    source.release(slice.begin, slice.end);
    // Pages that two slices share stay behind until the whole tensor is done.
    if (rows_left_[slice.tensor].fetch_sub(rows) == rows) source.release(0, source.rows());
    const std::lock_guard lock(mutex_);
    done_ += rows * source.cols();
    progress_.update(done_, total_, plan_.tensors[slice.tensor].name);
  }

  const QuantizePlan& plan_;
  std::vector<std::unique_ptr<Exporter>>& exporters_;
  Progress& progress_;
  std::vector<RowSlice> slices_;
  std::vector<Energy> energies_;                // of each slice, so that sums have one order
  std::vector<std::atomic<size_t>> rows_left_;  // of each tensor
  std::vector<std::pair<float, float>> ranges_;
  std::mutex mutex_;
  size_t done_ = 0, total_ = 0;  // elements
};

}  // namespace

std::vector<const ExporterEntry*> parse_formats(const std::string& text) {
  std::vector<const ExporterEntry*> formats;
  for (const std::string& name : split(text, ',')) {
    const ExporterEntry* format = &find_exporter(name);
    if (std::find(formats.begin(), formats.end(), format) != formats.end())
      throw Error(ErrorKind::kUsage, cat("format '", name, "' is given twice"));
    formats.push_back(format);
  }
  return formats;
}

QuantizeResult run_plan(const Source& source, const QuantizePlan& plan,
                        const std::vector<const ExporterEntry*>& formats, const std::filesystem::path& out, bool force,
                        Progress& progress) {
  const double start = wall_seconds(), cpu_start = cpu_seconds();
  const OutputModel model = output_model(source, plan);
  for (const ExporterEntry* format : formats)
    for (const OutputTensor& tensor : model.tensors) format->check(tensor);
  std::optional<StagedOutput> together;
  if (formats.size() > 1) together.emplace(out, /*folder=*/true, force);
  std::vector<std::unique_ptr<Exporter>> exporters;
  exporters.reserve(formats.size());
  for (const ExporterEntry* format : formats)
    exporters.push_back(format->make(together ? together->path() / format->name : out, !together && force, model));

  Run run(plan, exporters, progress);
  run.work();
  check_interrupted();
  QuantizeResult result;
  for (const auto& exporter : exporters) exporter->finish();
  if (together) together->commit();
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

// What a quantization says about itself at the end.
#include <algorithm>
#include <map>
#include <numeric>

#include "core/text.h"
#include "pipeline/quantize.h"

namespace nibble {

OrderedJson to_json(const QuantizeResult& result, const QuantizePlan& plan) {
  OrderedJson layers = OrderedJson::array();
  for (const LayerReport& layer : result.layers)
    layers.push_back({{"name", layer.name},
                      {"bits", layer.spec.bits},
                      {"group_size", layer.spec.group},
                      {"symmetric", layer.spec.symmetric},
                      {"algorithm", layer.algorithm},
                      {"weight_sqnr_db", layer.weight_sqnr_db},
                      {"output_error", layer.output_error},
                      {"percdamp", layer.percdamp},
                      {"seconds", layer.seconds},
                      {"fallback", layer.fallback}});
  OrderedJson json = {{"seconds", result.seconds},
                      {"cpu_seconds", result.cpu_seconds},
                      {"peak_rss_bytes", result.peak_rss_bytes},
                      {"bpw", result.bits_per_weight},
                      {"bytes", result.bytes},
                      {"layers", std::move(layers)},
                      {"plan", to_json(plan)}};
  if (result.calibration && !result.calibration->empty()) json["calibration"] = to_json(*result.calibration);
  return json;
}

std::string summary(const QuantizeResult& result, const QuantizePlan& plan) {
  std::string out;
  const auto line = [&](const std::string& text) { out += text + "\n"; };
  const double ratio =
      result.bytes == 0 ? 0 : static_cast<double>(plan.bytes_before) / static_cast<double>(result.bytes);
  line(cat("size      ", format_bytes(plan.bytes_before), " -> ", format_bytes(result.bytes), " (",
           format_fixed(ratio, 2), "x), ", format_fixed(result.bits_per_weight, 2), " bits per weight"));

  std::map<std::string, std::pair<size_t, size_t>> schemes, kept;  // text -> tensors, bytes
  for (const PlannedTensor& planned : plan.tensors) {
    const bool quantized = planned.action == PlannedTensor::Action::kQuantize;
    auto& entry = quantized ? schemes[cat(describe(*planned.spec), ", ", planned.algorithm)] : kept[planned.reason];
    ++entry.first;
    entry.second += planned.bytes_after;
  }
  for (const auto& [text, sums] : schemes)
    line(cat("quantized ", sums.first, " tensors, ", format_bytes(sums.second), ": ", text));
  for (const auto& [text, sums] : kept)
    line(cat("kept      ", sums.first, " tensors, ", format_bytes(sums.second), ": ", text));

  std::vector<size_t> order(result.layers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const bool calibrated = result.calibration && !result.calibration->empty();
  const auto worse = [&](size_t a, size_t b) {
    const LayerReport &x = result.layers[a], &y = result.layers[b];
    return calibrated ? x.output_error > y.output_error : x.weight_sqnr_db < y.weight_sqnr_db;
  };
  std::stable_sort(order.begin(), order.end(), worse);
  constexpr size_t kShown = 3;
  for (size_t i = 0; i < std::min(kShown, order.size()); ++i)
    line(cat(
        i == 0 ? "worst     " : "          ", result.layers[order[i]].name, ": weight SQNR ",
        format_fixed(result.layers[order[i]].weight_sqnr_db, 1), " dB",
        calibrated ? cat(", output error ", format_fixed(100 * result.layers[order[i]].output_error, 2), " %") : ""));
  if (calibrated) {
    double sum = 0;
    for (const LayerReport& layer : result.layers) sum += layer.output_error;
    line(cat("output    error of a layer ", format_fixed(100 * sum / static_cast<double>(result.layers.size()), 2),
             " % on average"));
    line(cat("calibrated on ", result.calibration->description()));
  }
  for (const std::string& warning : plan.warnings) line(cat("note      ", warning));
  line(cat("took      ", format_fixed(result.seconds, 1), " s (", format_fixed(result.cpu_seconds, 1),
           " CPU s), peak memory ", format_bytes(result.peak_rss_bytes)));
  return out;
}

}  // namespace nibble

#include "pipeline/finished_block.h"

#include <cstring>

#include "core/checked.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace nibble {
namespace {

constexpr const char* kMeasures = "measures";
constexpr const char* kInputs = "inputs";
constexpr const char* kCacheScales = "cache_scales";

OrderedJson to_json(const LayerMeasure& measure) {
  return {{"signal", measure.signal},
          {"error", measure.error},
          {"output_signal", measure.output_signal},
          {"output_error", measure.output_error},
          {"percdamp", measure.percdamp},
          {"seconds", measure.seconds},
          {"fallback", measure.fallback}};
}

LayerMeasure measure_from(const Json& json) {
  return {get_number(json, "signal"),       get_number(json, "error"),    get_number(json, "output_signal"),
          get_number(json, "output_error"), get_number(json, "percdamp"), get_number(json, "seconds"),
          get_string(json, "fallback")};
}

template <class T>
std::vector<T> values_of(const TensorView& view) {
  std::vector<T> values(view.bytes.size() / sizeof(T));
  std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

void save_block(const FinishedBlock& block, const std::filesystem::path& path) {
  std::vector<SafeTensorSlot> slots;
  std::vector<std::span<const std::byte>> contents;
  const auto add = [&](const std::string& name, DType dtype, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    slots.push_back({name, dtype, {bytes.size() / info(dtype).block_bytes}});
    contents.push_back(bytes);
  };
  for (const auto& [name, values] : block.vectors) add(name, DType::kF32, std::as_bytes(std::span(values)));
  for (const auto& [name, weight] : block.weights) {
    add(name + ":scales", DType::kF32, std::as_bytes(std::span(weight.scales)));
    add(name + ":mins", DType::kF32, std::as_bytes(std::span(weight.mins)));
  }
  for (const auto& [name, weight] : block.weights) {
    add(name + ":zeros", DType::kU8, std::as_bytes(std::span(weight.zeros)));
    add(name + ":codes", DType::kU8, std::as_bytes(std::span(weight.codes, weight.rows * weight.row_stride)));
  }
  OrderedJson measures = OrderedJson::object();
  for (const auto& [name, measure] : block.measures) measures[name] = to_json(measure);
  OrderedJson inputs = OrderedJson::object();
  for (const auto& [name, input] : block.inputs) inputs[name] = {input.scale, input.zero};
  std::filesystem::path unfinished = path;
  unfinished += ".unfinished";
  SafeTensorsWriter writer(
      unfinished, std::move(slots),
      {{kMeasures, measures.dump()}, {kInputs, inputs.dump()}, {kCacheScales, OrderedJson(block.cache_scales).dump()}});
  for (size_t i = 0; i < contents.size(); ++i) writer.write(i, 0, contents[i]);
  writer.finish();
  std::error_code failed;
  std::filesystem::rename(unfinished, path, failed);
  if (failed) throw io_error(cat("cannot rename ", unfinished.string()), failed.value());
}

FinishedBlock load_block(const std::filesystem::path& path, const QuantizePlan& plan) {
  const SafeTensorsFile file = SafeTensorsFile::open(path);
  FinishedBlock block;
  const auto metadata = file.metadata.find(kMeasures);
  if (metadata == file.metadata.end()) throw Error(ErrorKind::kCorrupt, cat(path.string(), ": no measures"));
  const Json measures = parse_json(metadata->second, path.string());
  for (const auto& [name, measure] : measures.items()) block.measures[name] = measure_from(measure);
  if (const auto found = file.metadata.find(kInputs); found != file.metadata.end()) {
    const Json inputs = parse_json(found->second, path.string());
    for (const auto& [name, input] : inputs.items()) {
      const PlannedTensor* planned = plan.find(name);
      if (!planned || input.size() != 2 || !input[0].is_number() || !input[1].is_number_integer())
        throw Error(ErrorKind::kCorrupt, cat(path.string(), ": the inputs of ", name, " do not fit the plan"));
      ActivationSpec& spec = block.inputs[name] = planned->activations;
      spec.scale = input[0].get<float>();
      spec.zero = input[1].get<int>();
    }
  }
  if (const auto found = file.metadata.find(kCacheScales); found != file.metadata.end()) {
    const Json scales = parse_json(found->second, path.string());
    for (const auto& [name, scale] : scales.items())
      block.cache_scales[name] = static_cast<float>(get_number(scales, name));
  }
  for (const SafeTensor& tensor : file.tensors) {
    const size_t colon = tensor.name.rfind(':');
    if (colon == std::string::npos) {
      block.vectors[tensor.name] = values_of<float>(tensor.view);
      continue;
    }
    PackedMatrix& weight = block.weights[tensor.name.substr(0, colon)];
    const std::string part = tensor.name.substr(colon + 1);
    if (part == "scales") weight.scales = values_of<float>(tensor.view);
    if (part == "mins") weight.mins = values_of<float>(tensor.view);
    if (part == "zeros") weight.zeros = values_of<uint8_t>(tensor.view);
    if (part == "codes") {
      weight.codes = reinterpret_cast<const uint8_t*>(tensor.view.bytes.data());
      weight.row_stride = tensor.view.bytes.size();  // of all rows, until the plan says how many
      weight.owner = tensor.view.owner;
    }
  }
  for (const PlannedTensor& planned : plan.tensors) {
    const auto found = block.weights.find(planned.name);
    if (found == block.weights.end() || !planned.spec) continue;
    PackedMatrix& weight = found->second;
    weight.spec = *planned.spec;
    weight.rows = planned.source->rows();
    weight.cols = planned.source->cols();
    const size_t maps = weight.spec.per_tensor ? 1 : weight.rows * weight.groups();
    if (weight.rows == 0 || weight.row_stride % weight.rows != 0 || weight.scales.size() != maps ||
        weight.row_stride / weight.rows < ceil_div(weight.cols * static_cast<size_t>(weight.spec.bits), 8))
      throw Error(ErrorKind::kCorrupt, cat(path.string(), ": ", planned.name, " does not fit the plan"));
    weight.row_stride /= weight.rows;
  }
  return block;
}

}  // namespace nibble

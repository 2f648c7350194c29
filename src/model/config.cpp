#include "model/config.h"

#include <cmath>
#include <limits>

namespace nibble {
namespace {

// Larger than any model that fits a machine for years, small enough that products of two never overflow.
constexpr size_t kMaxExtent = size_t{1} << 26;
constexpr size_t kMaxLayers = 4096;
constexpr size_t kMaxHeadDim = 8192;

[[noreturn]] void refuse(ErrorKind kind, std::string_view what) { throw Error(kind, cat("config.json: ", what)); }

template <class Read>
auto in_config(Read read) {
  return with_context([] { return "config.json"; }, read);
}

// config.json over the family's defaults. Null is a value here: it says "none" where a default would say otherwise.
class Keys {
 public:
  Keys(const Architecture& architecture, const Json& config)
      : values_(parse_json(architecture.defaults, cat("defaults of ", architecture.name))) {
    values_.update(config);
  }

  const Json& all() const { return values_; }
  const Json* find(std::string_view key) const { return nibble::find(values_, key); }
  std::optional<bool> find_bool(std::string_view key) const {
    return in_config([&] { return nibble::find_bool(values_, key); });
  }
  std::optional<std::string> find_string(std::string_view key) const {
    return in_config([&] { return nibble::find_string(values_, key); });
  }
  std::optional<size_t> find_size(std::string_view key) const {
    return in_config([&] { return nibble::find_size(values_, key); });
  }
  // An integer in [1, max].
  std::optional<size_t> find_extent(std::string_view key, size_t max) const {
    const auto value = find_size(key);
    if (value && (*value < 1 || *value > max))
      refuse(ErrorKind::kCorrupt, cat("'", key, "' is ", *value, ", expected 1 to ", max));
    return value;
  }
  size_t get_extent(std::string_view key, size_t max) const {
    const auto value = find_extent(key, max);
    if (!value) refuse(ErrorKind::kCorrupt, cat("'", key, "' is missing"));
    return *value;
  }

 private:
  Json values_;
};

// A number in [low, high] of a JSON object whose name is `where` ("" for the top level).
std::optional<double> find_in_range(const Json& object, std::string_view where, std::string_view key, double low,
                                    double high) {
  const auto value = with_context([&] { return cat("config.json", where.empty() ? "" : ": ", where); },
                                  [&] { return find_number(object, key); });
  if (value && !(*value >= low && *value <= high))
    refuse(ErrorKind::kCorrupt,
           cat(where, where.empty() ? "'" : ".'", key, "' is ", *value, ", expected ", low, " to ", high));
  return value;
}

double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; }

void parse_scaling(const Json& rope, std::string_view where, const Json& config, const ModelConfig& model,
                   RopeConfig& out) {
  const auto number = [&](std::string_view key, double low, double high) {
    return find_in_range(rope, where, key, low, high);
  };
  const auto required = [&](std::string_view key, double low, double high) {
    const auto value = number(key, low, high);
    if (!value) refuse(ErrorKind::kCorrupt, cat(where, ".'", key, "' is missing"));
    return *value;
  };
  const auto text = [&](std::string_view key) {
    return with_context([&] { return cat("config.json: ", where); }, [&] { return find_string(rope, key); });
  };
  std::string type = text("rope_type").value_or(text("type").value_or("default"));
  const auto original_context = [&] {
    // Some checkpoints state it at the top level; transformers prefers that one.
    const auto top = find_in_range(config, "", "original_max_position_embeddings", 1, kMaxExtent);
    const auto own = number("original_max_position_embeddings", 1, kMaxExtent);
    return static_cast<size_t>(top.value_or(own.value_or(static_cast<double>(model.max_positions))));
  };
  if (type == "default") return;
  if (type == "linear") {
    out.kind = RopeConfig::Kind::kLinear;
    out.factor = required("factor", 1e-3, 1e6);
  } else if (type == "llama3") {
    out.kind = RopeConfig::Kind::kLlama3;
    out.factor = required("factor", 1e-3, 1e6);
    out.low_freq_factor = required("low_freq_factor", 1e-3, 1e6);
    out.high_freq_factor = required("high_freq_factor", 1e-3, 1e6);
    out.original_context = original_context();
    if (out.high_freq_factor <= out.low_freq_factor)
      refuse(ErrorKind::kCorrupt, cat(where, ".'high_freq_factor' must be larger than 'low_freq_factor'"));
  } else if (type == "yarn") {
    out.kind = RopeConfig::Kind::kYarn;
    out.original_context = original_context();
    const double stretch = static_cast<double>(model.max_positions) / static_cast<double>(out.original_context);
    out.factor = number("factor", 1e-3, 1e6).value_or(stretch);
    out.beta_fast = number("beta_fast", 1e-3, 1e6).value_or(out.beta_fast);
    out.beta_slow = number("beta_slow", 1e-3, 1e6).value_or(out.beta_slow);
    out.truncate =
        with_context([&] { return cat("config.json: ", where); }, [&] { return find_bool(rope, "truncate"); })
            .value_or(true);
    const double scale = number("mscale", 0, 1e3).value_or(0), scale_all = number("mscale_all_dim", 0, 1e3).value_or(0);
    const double standard = scale != 0 && scale_all != 0
                                ? yarn_magnitude(out.factor, scale) / yarn_magnitude(out.factor, scale_all)
                                : yarn_magnitude(out.factor, 1.0);
    out.attention_factor = number("attention_factor", 1e-3, 1e3).value_or(standard);
  } else {
    refuse(ErrorKind::kUnsupported, cat(where, " has the type '", type, "'; known are default, linear, llama3, yarn"));
  }
}

RopeConfig parse_rope(const Json& config, const ModelConfig& model) {
  RopeConfig rope;
  const Json* scaling = find(config, "rope_parameters");
  const std::string_view where = scaling ? "'rope_parameters'" : "'rope_scaling'";
  if (!scaling) scaling = find(config, "rope_scaling");
  if (scaling && !scaling->is_object())
    refuse(ErrorKind::kCorrupt, cat(where, " should be an object, found ", scaling->type_name()));
  const auto either = [&](std::string_view key, double low, double high) {
    const auto inner = scaling ? find_in_range(*scaling, where, key, low, high) : std::nullopt;
    return inner ? inner : find_in_range(config, "", key, low, high);
  };
  rope.theta = either("rope_theta", 1.001, 1e15).value_or(rope.theta);
  const double share = either("partial_rotary_factor", 0.0, 1.0).value_or(1.0);
  rope.dims = static_cast<size_t>(static_cast<double>(model.head_dim) * share);
  if (rope.dims < 2 || rope.dims % 2 != 0)
    refuse(ErrorKind::kUnsupported, cat("'partial_rotary_factor' ", share, " rotates ", rope.dims, " of ",
                                        model.head_dim, " dimensions; an even number of at least 2 is needed"));
  if (scaling) parse_scaling(*scaling, where, config, model, rope);
  return rope;
}

// One window for the layers that `layer_types` names or, without it, for those from `max_window_layers` on.
std::vector<size_t> parse_windows(const Keys& keys, size_t layers) {
  std::vector<size_t> windows(layers, 0);
  const auto window = keys.find_extent("sliding_window", std::numeric_limits<size_t>::max());
  if (!window || !keys.find_bool("use_sliding_window").value_or(true)) return windows;
  const Json* types = keys.find("layer_types");
  if (!types) {
    const size_t first = keys.find_size("max_window_layers").value_or(0);
    for (size_t layer = first; layer < layers; ++layer) windows[layer] = *window;
    return windows;
  }
  if (!types->is_array() || types->size() != layers)
    refuse(ErrorKind::kCorrupt, cat("'layer_types' should be a list of ", layers, " names"));
  for (size_t layer = 0; layer < layers; ++layer) {
    const Json& type = (*types)[layer];
    if (type == "sliding_attention")
      windows[layer] = *window;
    else if (type != "full_attention")
      refuse(ErrorKind::kUnsupported,
             cat("'layer_types' has ", type.dump(-1, ' ', true, Json::error_handler_t::replace), " at layer ", layer,
                 "; known are full_attention and sliding_attention"));
  }
  return windows;
}

}  // namespace

const Architecture& architecture_of(const Json& config) {
  return with_context([] { return "config.json"; },
                      [&]() -> const Architecture& {
                        const Json& names = get(config, "architectures");
                        if (!names.is_array() || names.empty() || !names[0].is_string())
                          throw Error(ErrorKind::kCorrupt, "'architectures' should be a list of names");
                        return get_architecture(names[0].get_ref<const std::string&>());
                      });
}

ModelConfig parse_config(const Json& config) {
  ModelConfig model;
  model.architecture = &architecture_of(config);
  const Keys keys(*model.architecture, config);
  model.vocab_size = keys.get_extent("vocab_size", kMaxExtent);
  model.hidden_size = keys.get_extent("hidden_size", kMaxExtent);
  model.intermediate_size = keys.get_extent("intermediate_size", kMaxExtent);
  model.layers = keys.get_extent("num_hidden_layers", kMaxLayers);
  model.heads = keys.get_extent("num_attention_heads", kMaxExtent);
  model.kv_heads = keys.find_extent("num_key_value_heads", kMaxExtent).value_or(model.heads);
  if (model.heads % model.kv_heads != 0)
    refuse(ErrorKind::kCorrupt,
           cat("'num_key_value_heads' ", model.kv_heads, " does not divide 'num_attention_heads' ", model.heads));
  if (const auto head_dim = keys.find_extent("head_dim", kMaxHeadDim)) {
    model.head_dim = *head_dim;
  } else {
    if (model.hidden_size % model.heads != 0)
      refuse(ErrorKind::kCorrupt,
             cat("'num_attention_heads' ", model.heads, " does not divide 'hidden_size' ", model.hidden_size));
    model.head_dim = model.hidden_size / model.heads;
  }
  if (model.head_dim % 2 != 0 || model.head_dim > kMaxHeadDim)
    refuse(ErrorKind::kCorrupt,
           cat("heads of ", model.head_dim, " dimensions; expected an even number up to ", kMaxHeadDim));
  if (model.query_size() > kMaxExtent)
    refuse(ErrorKind::kCorrupt,
           cat("'num_attention_heads' ", model.heads, " x head size ", model.head_dim, " is more than ", kMaxExtent));
  model.max_positions = keys.find_extent("max_position_embeddings", size_t{1} << 40).value_or(2048);
  model.norm_eps = static_cast<float>(find_in_range(keys.all(), "", "rms_norm_eps", 0.0, 1.0).value_or(1e-6));
  model.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.head_dim)));
  model.tied_embeddings = keys.find_bool("tie_word_embeddings").value_or(false);
  const std::string activation = keys.find_string("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish")
    refuse(ErrorKind::kUnsupported, cat("'hidden_act' is '", activation, "'; known is silu"));
  model.rope = parse_rope(keys.all(), model);
  model.window = parse_windows(keys, model.layers);
  for (const TensorRule& rule : model.architecture->tensors)
    model.bias.push_back(rule.bias.always || (!rule.bias.key.empty() && keys.find_bool(rule.bias.key).value_or(false)));
  return model;
}

std::vector<size_t> weight_shape(const ModelConfig& config, Slot slot) {
  switch (slot) {
    case Slot::kEmbedding:
    case Slot::kLmHead:
      return {config.vocab_size, config.hidden_size};
    case Slot::kFinalNorm:
    case Slot::kAttentionNorm:
    case Slot::kMlpNorm:
      return {config.hidden_size};
    case Slot::kQueryNorm:
    case Slot::kKeyNorm:
      return {config.head_dim};
    case Slot::kQuery:
      return {config.query_size(), config.hidden_size};
    case Slot::kKey:
    case Slot::kValue:
      return {config.kv_size(), config.hidden_size};
    case Slot::kAttentionOutput:
      return {config.hidden_size, config.query_size()};
    case Slot::kGate:
    case Slot::kUp:
      return {config.intermediate_size, config.hidden_size};
    case Slot::kDown:
      return {config.hidden_size, config.intermediate_size};
  }
  return {};
}

}  // namespace nibble

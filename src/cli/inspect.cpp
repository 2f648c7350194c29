#include <iostream>
#include <map>

#include "cli/verb.h"
#include "core/text.h"
#include "model/config.h"
#include "model/load_tokenizer.h"
#include "model/source.h"
#include "pipeline/loaded_model.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble inspect model.gguf\n"
    "  nibble inspect model/ --tensors\n"
    "  nibble inspect model/ --json -\n"
    "  nibble inspect --architectures";

struct Options {
  Common common;
  std::string model;
  bool tensors = false;
  bool architectures = false;
};

// Rows of text, every column as wide as its widest cell; columns from `first_number` on are set to the right.
void print_table(const std::vector<std::vector<std::string>>& rows, size_t first_number) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c == widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], row[c].size());
    }
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(widths[c] - row[c].size(), ' ');
      line += cat(c == 0 ? "" : "  ", c >= first_number ? space + row[c] : row[c] + space);
    }
    std::cout << line.substr(0, line.find_last_not_of(' ') + 1) << '\n';
  }
}

std::string text(const Shape& shape) {
  std::vector<std::string> extents;
  for (const size_t extent : shape) extents.push_back(std::to_string(extent));
  return join(extents, " x ");
}

std::string millions(size_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1000000000) return format_fixed(value / 1e9, 2) + " billion";
  if (count >= 1000000) return format_fixed(value / 1e6, 1) + " million";
  return std::to_string(count);
}

std::string bits_per_weight(size_t bytes, size_t parameters) {
  return parameters == 0 ? "-" : format_fixed(8.0 * static_cast<double>(bytes) / static_cast<double>(parameters), 2);
}

// How its values are stored: "int4 sym g64", or the type alone.
std::string storage(const StoredTensor& tensor) {
  if (!tensor.spec()) return tensor.type_name();
  const std::string described = describe(*tensor.spec());
  return described.starts_with(tensor.type_name()) ? described : cat(tensor.type_name(), " (", described, ")");
}

struct Class {
  size_t tensors = 0, parameters = 0, bytes = 0;
};

OrderedJson to_json(const StoredTensor& tensor) {
  OrderedJson json = {
      {"name", tensor.name()}, {"dtype", tensor.type_name()}, {"shape", tensor.shape()}, {"bytes", tensor.bytes()}};
  if (const auto& spec = tensor.spec()) {
    json["bits"] = spec->bits;
    json["group_size"] = spec->group == QuantSpec::kWholeRow ? -1 : static_cast<int64_t>(spec->group);
  } else {
    json["bits"] = 8 * info(tensor.dtype()).block_bytes;
    json["group_size"] = nullptr;
  }
  return json;
}

// "byte-level BPE, 49152 tokens"; nothing when the model has none.
std::optional<std::string> tokenizer_kind(const std::filesystem::path& model) {
  try {
    const auto tokenizer = load_tokenizer(model);
    return cat(tokenizer->kind(), ", ", tokenizer->vocab_size(), " tokens");
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kUsage) return std::nullopt;
    if (error.kind() == ErrorKind::kUnsupported) return cat("not supported: ", error.what());
    throw;
  }
}

void list_architectures(const Common& common) {
  std::vector<std::vector<std::string>> rows = {{"name", "config.json", "GGUF"}};
  OrderedJson list = OrderedJson::array();
  for (const Architecture* architecture : architectures()) {
    rows.push_back(
        {std::string(architecture->name), std::string(architecture->class_name), std::string(architecture->gguf_name)});
    list.push_back(
        {{"name", architecture->name}, {"class", architecture->class_name}, {"gguf", architecture->gguf_name}});
  }
  if (common.prints()) print_table(rows, 3);
  common.emit({{"architectures", list}});
}

void inspect(const Options& options) {
  options.common.apply();
  if (options.architectures) return list_architectures(options.common);
  if (options.model.empty()) throw Error(ErrorKind::kUsage, "MODEL is required: a folder or a .gguf file");
  const auto source = Source::open(options.model);
  const ModelConfig config =
      with_context([&] { return options.model; }, [&] { return parse_config(source->config()); });
  const WeightTotals totals = count_weights(*source);
  const auto tokenizer = tokenizer_kind(options.model);

  std::map<std::pair<TensorRole, std::string>, Class> classes;
  OrderedJson tensors = OrderedJson::array();
  size_t quantized = 0, rounds_inputs = 0;
  for (const auto& tensor : source->tensors()) {
    Class& sum = classes[{role_of(*config.architecture, tensor->name()), storage(*tensor)}];
    ++sum.tensors;
    sum.parameters += element_count(tensor->shape());
    sum.bytes += tensor->bytes();
    quantized += tensor->spec() ? 1 : 0;
    rounds_inputs += tensor->activations().mode != ActivationSpec::Mode::kNone ? 1 : 0;
    tensors.push_back(to_json(*tensor));
  }
  const std::string quantization =
      quantized == 0 ? "none"
                     : cat(quantized, " of ", source->tensors().size(), " tensors",
                           rounds_inputs == 0 ? "" : cat(", ", rounds_inputs, " with quantized inputs"));

  if (options.common.prints()) {
    print_table(
        {{"model", cat(options.model, " (", source->kind(), ")")},
         {"architecture", cat(config.architecture->name, " (", config.architecture->class_name, ")")},
         {"layers", cat(config.layers, " of hidden size ", config.hidden_size, ", MLP ", config.intermediate_size,
                        ", heads ", config.heads, "/", config.kv_heads, " x ", config.head_dim)},
         {"vocabulary", cat(config.vocab_size, config.tied_embeddings ? ", embedding tied to lm_head" : "")},
         {"context", std::to_string(config.max_positions)},
         {"tokenizer", tokenizer.value_or("none")},
         {"quantization", quantization},
         {"parameters", millions(totals.parameters)},
         {"size", cat(format_bytes(totals.bytes), ", ", format_fixed(totals.bpw(), 3), " bits per weight")}},
        2);
    for (const std::string& note : source->notes()) std::cout << "note: " << note << '\n';
    std::cout << '\n';
    std::vector<std::vector<std::string>> rows = {{"class", "type", "tensors", "parameters", "size", "bpw"}};
    for (const auto& [key, sum] : classes)
      rows.push_back({std::string(name(key.first)), key.second, std::to_string(sum.tensors), millions(sum.parameters),
                      format_bytes(sum.bytes), bits_per_weight(sum.bytes, sum.parameters)});
    print_table(rows, 2);
    if (options.tensors) {
      std::cout << '\n';
      rows = {{"tensor", "type", "shape", "size", "bpw"}};
      for (const auto& tensor : source->tensors())
        rows.push_back({tensor->name(), storage(*tensor), text(tensor->shape()), format_bytes(tensor->bytes()),
                        bits_per_weight(tensor->bytes(), element_count(tensor->shape()))});
      print_table(rows, 2);
    }
  }
  OrderedJson result = {{"architecture", config.architecture->name},
                        {"class", config.architecture->class_name},
                        {"format", source->kind()},
                        {"parameters", totals.parameters},
                        {"bytes", totals.bytes},
                        {"bpw", totals.bpw()},
                        {"layers", config.layers},
                        {"hidden_size", config.hidden_size},
                        {"vocab_size", config.vocab_size},
                        {"tied_embeddings", config.tied_embeddings},
                        {"quantized_tensors", quantized}};
  result["tokenizer"] = tokenizer ? OrderedJson(*tokenizer) : OrderedJson(nullptr);
  result["tensors"] = std::move(tensors);
  options.common.emit(result);
}

}  // namespace

void add_inspect(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& verb = add_verb(app, "inspect", "What a model is made of", kExamples,
                            std::shared_ptr<Common>(options, &options->common));
  verb.add_option("MODEL", options->model, "a Hugging Face folder or a .gguf file");
  verb.add_flag("--tensors", options->tensors, "list every tensor");
  verb.add_flag("--architectures", options->architectures, "list the known model families instead");
  verb.callback([options] { inspect(*options); });
}

}  // namespace nibble::cli

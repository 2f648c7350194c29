// Rewrites the graph of an ONNX source: new initializers stream to the output while they are made, the nodes that use
// them and what nobody needs any more change at the end.
#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "core/files.h"
#include "export/onnx_form.h"
#include "export/onnx_input_factors.h"
#include "export/onnx_splice.h"
#include "formats/onnx_opset.h"
#include "formats/onnx_writer.h"
#include "model/onnx_source.h"

namespace nibble {
namespace {

const OnnxSource& onnx_source(const OutputModel& model) {
  const auto* source = dynamic_cast<const OnnxSource*>(&model.source);
  if (source) return *source;
  throw Error(
      ErrorKind::kUsage,
      cat("an ONNX model is made from an ONNX model, and ", model.source.path().string(),
          " is none; make one with: python -m onnxruntime_genai.models.builder -i FOLDER -m none -o OUT -p fp32 "
          "-e cpu (FOLDER: Hugging Face, such as nibble convert --format fake writes)"));
}

// Removes nodes and initializers that nothing reads.
void remove_unused(onnx::GraphProto& graph, const std::set<std::string>& candidates) {
  std::set<std::string> doubtful = candidates;
  while (!doubtful.empty()) {
    const OnnxGraphIndex index(graph);
    std::set<std::string> next;
    std::set<const onnx::NodeProto*> dead_nodes;
    std::set<const onnx::TensorProto*> dead_tensors;
    for (const std::string& value : doubtful) {
      if (!index.readers(value).empty() || index.is_output(value)) continue;
      if (const onnx::TensorProto* tensor = index.initializer(value); tensor && !index.is_input(value))
        dead_tensors.insert(tensor);
      const onnx::NodeProto* node = index.producer(value);
      if (!node || node->output_size() != 1) continue;
      dead_nodes.insert(node);
      next.insert(node->input().begin(), node->input().end());
    }
    google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
    for (onnx::NodeProto& node : *graph.mutable_node())
      if (!dead_nodes.contains(&node)) nodes.Add()->Swap(&node);
    google::protobuf::RepeatedPtrField<onnx::TensorProto> tensors;
    for (onnx::TensorProto& tensor : *graph.mutable_initializer())
      if (!dead_tensors.contains(&tensor)) tensors.Add()->Swap(&tensor);
    graph.mutable_node()->Swap(&nodes);
    graph.mutable_initializer()->Swap(&tensors);
    doubtful = std::move(next);
  }
}

class OnnxExporter final : public Exporter {
 public:
  OnnxExporter(const std::filesystem::path& out, bool force, OutputModel model, OnnxFormMaker make_form)
      : model_(std::move(model)),
        source_(onnx_source(model_)),
        plan_(model_, source_, make_form),
        output_(out, /*folder=*/true, force),
        writer_(output_.path(), source_.path().filename().string(), plan_.slot_bytes) {}

  void write(size_t tensor, size_t first_row, const QuantizedMatrix& rows) override {
    const OnnxPlace& place = source_.place(model_.tensors[tensor].name);
    Weight& weight = *plan_.weights.find(place.weight)->second;
    const auto sink = [&](size_t part, size_t offset, std::span<const std::byte> bytes) {
      writer_.write(weight.first_slot + part, offset, bytes);
    };
    weight.form->write(place.first + first_row, rows, sink);
    if (weight.rows_left.fetch_sub(rows.rows) == rows.rows) weight.form->finish(sink);
  }

  // Matrices that are kept are copied as they are in finish(); vectors may have been changed by an equalizer.
  void write(size_t tensor, size_t first_row, size_t, std::span<const std::byte> values) override {
    const OutputTensor& output = model_.tensors[tensor];
    const OnnxPlace& place = source_.place(output.name);
    if (!place.initializer) return;
    const size_t element = byte_size(output.dtype, 1);
    writer_.write(plan_.vectors.find(place.initializer)->second, (place.first + first_row) * element, values);
  }

  void finish() override {
    onnx::ModelProto proto = source_.model().proto();
    onnx::GraphProto& graph = *proto.mutable_graph();
    std::map<std::string, size_t, std::less<>> slot_of;
    for (const auto& [initializer, slot] : plan_.vectors) slot_of.emplace(initializer->name(), slot);
    std::set<std::string> maybe_unused, added;
    for (const auto& [weight, entry] : plan_.weights) added.insert(entry->names.begin(), entry->names.end());
    OnnxSplice splice(source_.index(), std::move(added));
    std::map<int, const std::vector<float>*> scaled;
    for (const auto& [weight, entry] : plan_.weights)
      if (!entry->input_factors.empty())
        for (const int i : weight->nodes) scaled.emplace(i, &entry->input_factors);
    const OnnxInputFactors factors(source_.model(), source_.index(), std::move(scaled));
    factors.fold(splice, maybe_unused);
    for (const auto& [weight, entry] : plan_.weights)
      add_weight(*weight, *entry, graph, slot_of, factors, splice, maybe_unused);
    plan_.bytes += splice.apply(graph);
    remove_unused(graph, maybe_unused);
    for (const auto& [domain, version] : plan_.opsets) import(proto, domain, version);
    if (const auto own = plan_.opsets.find(""); own != plan_.opsets.end())
      plan_.bytes += raise_opset(proto, own->second);
    writer_.finish(proto, slot_of, source_.model());
    for (const std::string& name : source_.side_files())
      write_text_file(output_.path() / name, source_.side_file(name));
    output_.commit();
  }

  size_t bytes() const override { return plan_.bytes; }

 private:
  struct Weight {
    std::unique_ptr<OnnxForm> form;
    size_t first_slot = 0;
    std::vector<std::string> names;  // of the parts
    std::atomic<size_t> rows_left{0};
    QuantSpec spec;
    ActivationSpec activations;
    std::vector<float> input_factors;
    std::string first_tensor;
  };

  // What is written where, made before the first byte.
  struct Plan {
    Plan(const OutputModel& model, const OnnxSource& source, OnnxFormMaker make_form) {
      for (const OutputTensor& tensor : model.tensors) {
        check_onnx(tensor);
        const OnnxPlace& place = source.place(tensor.name);
        if (tensor.spec)
          add_matrix(tensor, *place.weight, make_form, model, source.model().opset(""));
        else if (place.initializer)
          add_vector(tensor, *place.initializer);
      }
      std::set<std::string_view> taken;
      for (const auto& initializer : source.model().graph().initializer()) taken.insert(initializer.name());
      for (auto& [weight, entry] : weights) complete(*weight, *entry, source, taken);
      if (const auto own = opsets.find(""); own != opsets.end())
        if (const std::string obstacle = opset_obstacle(source.model().proto(), own->second); !obstacle.empty())
          throw Error(ErrorKind::kUsage,
                      cat(source.path().string(), " uses opset ", source.model().opset(""), ", this needs ",
                          own->second, ", and the graph cannot be raised to it: ", obstacle,
                          "; export it with a newer opset, or use --format onnx with weights alone"));
      // The rest is copied: what nobody will read any more is left out then, so this is an upper bound until finish().
      std::set<const onnx::TensorProto*> gone;
      for (const auto& [weight, entry] : weights)
        if (source.index().readers(weight->tensor->name()).size() <= weight->nodes.size()) gone.insert(weight->tensor);
      for (const onnx::TensorProto& initializer : source.model().graph().initializer())
        if (initializer.data_type() != onnx_type::kString && !gone.contains(&initializer))
          bytes += source.model().tensor(initializer).bytes.size();
    }

    void add_matrix(const OutputTensor& tensor, const OnnxWeight& weight, OnnxFormMaker make_form,
                    const OutputModel& model, int64_t opset) {
      if (!weight.obstacle.empty() && !weight.is_packed())
        throw Error(ErrorKind::kUsage,
                    cat(tensor.name, ": cannot be replaced: ", weight.obstacle, "; leave it with --skip"));
      const auto stored = onnx_dtype(weight.tensor->data_type());
      if (!weight.is_packed() && stored != tensor.spec->scale_dtype)
        throw Error(ErrorKind::kUsage, cat(tensor.name, ": its node computes in ",
                                           onnx_type_name(weight.tensor->data_type()), "; leave out --dtype"));
      std::unique_ptr<Weight>& entry = weights[&weight];
      if (!entry) {
        entry = std::make_unique<Weight>();
        entry->form =
            make_form({weight, *tensor.spec, tensor.activations, model.accuracy_level, model.tensor_ranges, opset});
        entry->spec = *tensor.spec;
        entry->activations = tensor.activations;
        entry->input_factors = tensor.input_factors;
        entry->first_tensor = tensor.name;
      } else if (!(entry->spec == *tensor.spec)) {
        throw Error(ErrorKind::kUsage,
                    cat(tensor.name, " (", describe(*tensor.spec), ") and ", entry->first_tensor, " (",
                        describe(entry->spec), ") are one weight of the graph: quantize them alike"));
      }
      if (entry->activations != tensor.activations)
        throw Error(ErrorKind::kUsage, cat(tensor.name, " and ", entry->first_tensor,
                                           " are one weight of the graph: quantize their inputs alike"));
      entry->rows_left += tensor.rows();
    }

    void add_vector(const OutputTensor& tensor, const onnx::TensorProto& initializer) {
      if (onnx_dtype(initializer.data_type()) != tensor.dtype)
        throw Error(ErrorKind::kUsage, cat(tensor.name, ": stays ", onnx_type_name(initializer.data_type()),
                                           " in the graph; leave out --dtype"));
      if (vectors.emplace(&initializer, slot_bytes.size()).second) {
        size_t count = 1;
        for (const int64_t extent : initializer.dims()) count *= static_cast<size_t>(extent);
        slot_bytes.push_back(byte_size(tensor.dtype, count));
      }
    }

    void complete(const OnnxWeight& weight, Weight& entry, const OnnxSource& source,
                  std::set<std::string_view>& taken) {
      if (entry.rows_left != weight.rows)
        throw Error(ErrorKind::kUsage,
                    cat(entry.first_tensor, ": only ", entry.rows_left, " of the ", weight.rows, " rows of its node ",
                        weight.name, " are quantized: quantize or skip all of them"));
      const std::string& base = weight.tensor->name().empty() ? weight.name : weight.tensor->name();
      entry.first_slot = slot_bytes.size();
      for (const OnnxForm::Part& part : entry.form->parts()) {
        std::string name = base + part.suffix;
        while (taken.contains(name) || source.index().producer(name) || source.index().is_input(name)) name += "_";
        entry.names.push_back(name);
        slot_bytes.push_back(part.bytes);
        bytes += part.bytes;
      }
      for (const std::string& name : entry.names) taken.insert(name);
      for (const auto& [domain, version] : entry.form->needs_opsets()) {
        int64_t& wanted = opsets[domain];
        wanted = std::max(wanted, version);
      }
    }

    std::map<const OnnxWeight*, std::unique_ptr<Weight>> weights;
    std::map<const onnx::TensorProto*, size_t> vectors;  // slots
    std::vector<size_t> slot_bytes;
    std::map<std::string, int64_t> opsets;
    size_t bytes = 0;
  };

  static void add_weight(const OnnxWeight& weight, const Weight& entry, onnx::GraphProto& graph,
                         std::map<std::string, size_t, std::less<>>& slot_of, const OnnxInputFactors& factors,
                         OnnxSplice& splice, std::set<std::string>& maybe_unused) {
    for (size_t i = 0; i < entry.names.size(); ++i) {
      const OnnxForm::Part& part = entry.form->parts()[i];
      onnx::TensorProto& tensor = *graph.add_initializer();
      tensor.set_name(entry.names[i]);
      tensor.set_data_type(part.type);
      for (const size_t extent : part.shape) tensor.add_dims(static_cast<int64_t>(extent));
      slot_of.emplace(entry.names[i], entry.first_slot + i);
    }
    for (const int i : weight.nodes) {
      const onnx::NodeProto& node = graph.node(i);
      for (int k = weight.is_table() ? 0 : 1; k < node.input_size(); ++k) maybe_unused.insert(node.input(k));
      onnx::NodeProto product = node;
      OnnxReplacement replacement = factors.before(i, product, onnx_type_of(entry.spec.scale_dtype));
      OnnxReplacement own = entry.form->replace(product, entry.names);
      std::move(own.nodes.begin(), own.nodes.end(), std::back_inserter(replacement.nodes));
      std::move(own.constants.begin(), own.constants.end(), std::back_inserter(replacement.constants));
      splice.replace(i, std::move(replacement));
    }
  }

  // Operators that the output uses must be imported; ONNX's own are: raise_opset() sees to their version.
  void import(onnx::ModelProto& proto, const std::string& domain, int64_t version) const {
    if (domain.empty() || source_.model().opset(domain) >= version) return;
    onnx::OperatorSetIdProto& set = *proto.add_opset_import();
    set.set_domain(domain);
    set.set_version(version);
  }

  OutputModel model_;
  const OnnxSource& source_;
  Plan plan_;
  StagedOutput output_;
  OnnxWriter writer_;
};

}  // namespace

std::string onnx_bias(const onnx::NodeProto& node) {
  const int input = node.op_type() == "Gemm" ? 2 : node.op_type() == "MatMulNBits" ? 5 : -1;
  return input >= 0 && input < node.input_size() ? node.input(input) : "";
}

void add_onnx_bias(onnx::NodeProto product, const onnx::NodeProto& node, std::vector<onnx::NodeProto>& nodes) {
  const std::string bias = onnx_bias(node);
  product.add_output(bias.empty() ? node.output(0) : onnx_new(node.output(0) + "_product"));
  nodes.push_back(std::move(product));
  if (bias.empty()) return;
  onnx::NodeProto add;
  add.set_name(nodes.back().name());
  add.set_op_type("Add");
  for (const std::string* input : {&nodes.back().output(0), &bias}) add.add_input(*input);
  add.add_output(node.output(0));
  nodes.back().set_name(nodes.back().output(0));
  nodes.push_back(std::move(add));
}

void set_onnx_int(onnx::NodeProto& node, const char* name, size_t value) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(2);
  attribute.set_i(static_cast<int64_t>(value));
}

std::unique_ptr<Exporter> make_onnx_exporter(const std::filesystem::path& out, bool force, OutputModel model,
                                             OnnxFormMaker make_form) {
  return std::make_unique<OnnxExporter>(out, force, std::move(model), make_form);
}

void check_onnx(const OutputTensor& tensor) {
  if (quantizes_inputs(tensor)) {
    const QuantSpec& spec = *tensor.spec;
    const ActivationSpec& inputs = tensor.activations;
    if (spec.grid != Grid::kInt || inputs.grid != Grid::kInt || spec.bits != 8 || inputs.bits != 8 || spec.mins)
      throw Error(ErrorKind::kUsage,
                  cat(tensor.name, ": ONNX multiplies 8-bit integers by 8-bit integers with integer zero points, not ",
                      describe(spec),
                      "; use --bits 8 --act-bits 8, or weights alone with --act none (--accuracy-level "
                      "4 then lets ONNX Runtime round inputs)"));
    if (inputs.mode == ActivationSpec::Mode::kDynamicPerToken && !inputs.symmetric)
      throw Error(ErrorKind::kUsage,
                  cat(tensor.name,
                      ": ONNX's products of integers have one zero point for all tokens, so dynamic inputs "
                      "are symmetric; use --scheme W8A8"));
    if (!spec.per_tensor && spec.groups(tensor.cols()) > 1)
      throw Error(ErrorKind::kUsage,
                  cat(tensor.name, ": ONNX's products of integers have one scale for each output, not groups of ",
                      spec.group, "; use --group-size 0"));
  }
  if (tensor.spec && tensor.grouped_columns)
    throw Error(ErrorKind::kUsage, cat(tensor.name,
                                       ": its columns are reordered (act-order), which ONNX Runtime computes wrongly; "
                                       "dequantize with --format fake first"));
}

}  // namespace nibble

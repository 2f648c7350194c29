// Writes a random Llama checkpoint as a Hugging Face folder, for measurements at a size that nobody wants to download.
// Streams: a few megabytes of memory whatever the model's size. The same options give the same bytes on every machine
// and for any number of threads.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>

#include "core/files.h"
#include "core/half.h"
#include "core/json.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/usage.h"
#include "formats/safetensors_writer.h"

namespace nibble {
namespace {

// 1.07 billion parameters, 2.15 GB as bf16.
struct Options {
  std::string out, dtype = "bf16";
  size_t hidden = 2048, layers = 16, ffn = 8192, heads = 32, kv_heads = 8, head_dim = 64, vocab = 49152, context = 4096;
  double deviation = 0.02;
  uint64_t seed = 0;
  size_t threads = 0;
  bool untied = false, force = false;
};

std::vector<SafeTensorSlot> slots(const Options& o, DType dtype) {
  std::vector<SafeTensorSlot> out;
  const auto add = [&](const std::string& name, Shape shape) {
    out.push_back({name + ".weight", dtype, std::move(shape)});
  };
  add("model.embed_tokens", {o.vocab, o.hidden});
  for (size_t layer = 0; layer < o.layers; ++layer) {
    const std::string block = cat("model.layers.", layer, ".");
    add(block + "input_layernorm", {o.hidden});
    add(block + "self_attn.q_proj", {o.heads * o.head_dim, o.hidden});
    add(block + "self_attn.k_proj", {o.kv_heads * o.head_dim, o.hidden});
    add(block + "self_attn.v_proj", {o.kv_heads * o.head_dim, o.hidden});
    add(block + "self_attn.o_proj", {o.hidden, o.heads * o.head_dim});
    add(block + "post_attention_layernorm", {o.hidden});
    add(block + "mlp.gate_proj", {o.ffn, o.hidden});
    add(block + "mlp.up_proj", {o.ffn, o.hidden});
    add(block + "mlp.down_proj", {o.hidden, o.ffn});
  }
  add("model.norm", {o.hidden});
  if (o.untied) add("lm_head", {o.vocab, o.hidden});
  return out;
}

OrderedJson config(const Options& o) {
  const char* type = o.dtype == "bf16" ? "bfloat16" : o.dtype == "f16" ? "float16" : "float32";
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", o.vocab},
          {"hidden_size", o.hidden},
          {"intermediate_size", o.ffn},
          {"num_hidden_layers", o.layers},
          {"num_attention_heads", o.heads},
          {"num_key_value_heads", o.kv_heads},
          {"head_dim", o.head_dim},
          {"max_position_embeddings", o.context},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"tie_word_embeddings", !o.untied},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"torch_dtype", type}};
}

// Weight `i` of a tensor: nearly normal, the sum of the four 16-bit parts of one SplitMix64 output. A function of its
// index alone, so that any thread can compute any part.
float weight(uint64_t stream, size_t i, float scale) {
  uint64_t z = stream + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  const auto sum = static_cast<int32_t>((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48));
  return static_cast<float>(sum - 2 * 0xffff) * scale;
}

template <class T, class Convert>
void write_tensor(SafeTensorsWriter& writer, size_t slot, size_t count, uint64_t stream, float scale, bool ones,
                  Convert convert) {
  constexpr size_t kBlock = 1 << 17;
  parallel_for(count, kBlock, [&](size_t begin, size_t end) {
    std::vector<T> values(end - begin);
    for (size_t i = begin; i < end; ++i) values[i - begin] = convert(ones ? 1.0f : weight(stream, i, scale));
    writer.write(slot, begin * sizeof(T), std::as_bytes(std::span(values)));
  });
  writer.start_writeback();
}

void make_model(const Options& o) {
  set_thread_count(o.threads);
  const DType dtype = o.dtype == "bf16" ? DType::kBF16 : o.dtype == "f16" ? DType::kF16 : DType::kF32;
  const double start = wall_seconds();
  StagedOutput staged(o.out, /*folder=*/true, o.force);
  const std::vector<SafeTensorSlot> tensors = slots(o, dtype);
  SafeTensorsWriter writer(staged.path() / "model.safetensors", tensors, {{"format", "pt"}});
  // Four uniform 16-bit numbers have a variance of 4 * 2^32 / 12.
  const auto scale = static_cast<float>(o.deviation / (65536.0 * std::sqrt(1.0 / 3.0)));
  size_t parameters = 0;
  for (size_t slot = 0; slot < tensors.size(); ++slot) {
    const size_t count = element_count(tensors[slot].shape);
    const bool ones = tensors[slot].shape.size() == 1;  // norms
    const uint64_t stream = (o.seed * 0x100000001b3u + slot + 1) * 0xd6e8feb86659fd93u;
    parameters += count;
    if (dtype == DType::kF32)
      write_tensor<float>(writer, slot, count, stream, scale, ones, [](float x) { return x; });
    else if (dtype == DType::kBF16)
      write_tensor<uint16_t>(writer, slot, count, stream, scale, ones, f32_to_bf16);
    else
      write_tensor<uint16_t>(writer, slot, count, stream, scale, ones, f32_to_f16);
  }
  const size_t bytes = writer.data_bytes();
  writer.finish();
  write_text_file(staged.path() / "config.json", config(o).dump(2) + "\n");
  staged.commit();
  const double seconds = wall_seconds() - start;
  std::cerr << o.out << ": " << format_fixed(static_cast<double>(parameters) / 1e6, 1) << " million parameters, "
            << format_bytes(bytes) << " in " << format_fixed(seconds, 1) << " s ("
            << format_fixed(static_cast<double>(bytes) / seconds / 1e6, 0) << " MB/s)\n";
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app("Writes a random Llama checkpoint.", "make_model");
  app.add_option("out", o.out, "folder to write")->required();
  const auto size = [&](const char* flag, size_t& value, const char* help) {
    app.add_option(flag, value, help)->check(CLI::Range(size_t{1}, size_t{1} << 24))->capture_default_str();
  };
  size("--hidden", o.hidden, "hidden size");
  size("--layers", o.layers, "blocks");
  size("--ffn", o.ffn, "intermediate size");
  size("--heads", o.heads, "attention heads");
  size("--kv-heads", o.kv_heads, "heads of keys and values");
  size("--head-dim", o.head_dim, "size of a head");
  size("--vocab", o.vocab, "tokens");
  size("--context", o.context, "max_position_embeddings");
  app.add_option("--dtype", o.dtype, "bf16, f16 or f32")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  app.add_option("--std", o.deviation, "standard deviation of the weights")->capture_default_str();
  app.add_option("--seed", o.seed, "of the weights")->capture_default_str();
  app.add_option("--threads", o.threads, "0: one for each physical core")->capture_default_str();
  app.add_flag("--untied", o.untied, "a matrix of its own for the output");
  app.add_flag("--force", o.force, "replace an existing folder");
  try {
    app.parse(argc, argv);
    make_model(o);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << "make_model: " << error.what() << '\n';
    return error.kind() == ErrorKind::kUsage ? 2 : 1;
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::run(argc, argv); }

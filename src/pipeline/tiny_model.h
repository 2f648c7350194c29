#pragma once
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/half.h"
#include "core/json.h"
#include "core/random.h"
#include "formats/safetensors.h"

namespace nibble {

// For tests: a random Llama checkpoint in a folder, small enough to write in a millisecond.
struct TinyModel {
  size_t hidden = 64, intermediate = 96, layers = 2, vocab = 128;
  bool tied = false;
  DType dtype = DType::kF32;
  // Called with each tensor's name and values before they are stored.
  std::function<void(const std::string&, std::vector<float>&)> edit;

  void write(const std::filesystem::path& folder) const {
    std::filesystem::create_directories(folder);
    std::vector<SafeTensorSlot> slots;
    const auto add = [&](const std::string& name, Shape shape) { slots.push_back({name + ".weight", dtype, shape}); };
    add("model.embed_tokens", {vocab, hidden});
    for (size_t i = 0; i < layers; ++i) {
      const std::string block = "model.layers." + std::to_string(i) + ".";
      add(block + "input_layernorm", {hidden});
      for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
        add(block + "self_attn." + name, {hidden, hidden});
      add(block + "post_attention_layernorm", {hidden});
      add(block + "mlp.gate_proj", {intermediate, hidden});
      add(block + "mlp.up_proj", {intermediate, hidden});
      add(block + "mlp.down_proj", {hidden, intermediate});
    }
    add("model.norm", {hidden});
    if (!tied) add("lm_head", {vocab, hidden});
    SafeTensorsWriter writer(folder / "model.safetensors", slots, {{"format", "pt"}});
    Random random(7);
    for (size_t i = 0; i < slots.size(); ++i) {
      std::vector<float> values(element_count(slots[i].shape));
      for (float& value : values)
        value = static_cast<float>(random.uniform() + random.uniform() + random.uniform() - 1.5) * 0.1f;
      if (edit) edit(slots[i].name, values);
      if (dtype == DType::kF32) {
        writer.write(i, 0, std::as_bytes(std::span(values)));
      } else {
        std::vector<uint16_t> halves;
        halves.reserve(values.size());
        for (const float value : values)
          halves.push_back(dtype == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value));
        writer.write(i, 0, std::as_bytes(std::span(halves)));
      }
    }
    writer.finish();
    const OrderedJson config = {{"architectures", {"LlamaForCausalLM"}},
                                {"model_type", "llama"},
                                {"hidden_size", hidden},
                                {"intermediate_size", intermediate},
                                {"num_hidden_layers", layers},
                                {"num_attention_heads", 4},
                                {"num_key_value_heads", 4},
                                {"hidden_act", "silu"},
                                {"max_position_embeddings", 64},
                                {"rms_norm_eps", 1e-5},
                                {"rope_theta", 10000.0},
                                {"tie_word_embeddings", tied},
                                {"torch_dtype", dtype == DType::kF32    ? "float32"
                                                : dtype == DType::kBF16 ? "bfloat16"
                                                                        : "float16"},
                                {"vocab_size", vocab}};
    write_text_file(folder / "config.json", config.dump(2));
    write_text_file(folder / "generation_config.json", "{\"eos_token_id\": 2}\n");
  }
};

}  // namespace nibble

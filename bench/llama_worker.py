"""llama.cpp through the low-level interface of llama-cpp-python, one job for a process, JSON on standard output.

llama_worker.py bench MODEL.gguf THREADS PROMPT TOKENS REPACK    {"prefill_tps", "decode_tps", "bytes"}
llama_worker.py quantize IN.gguf OUT.gguf TYPE [IMATRIX.gguf]    {"seconds"}; 2 threads
llama_worker.py logits MODEL.gguf ID,ID,... OUT.npy              float32 [tokens, vocab]
llama_worker.py import HF_FOLDER OUT.gguf                        a Llama checkpoint without a tokenizer, as BF16
"""

import ctypes
import json
import os
import pathlib
import sys
import time

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q2_K_S": 21, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}


def bench(model_path, threads, prompt, tokens, repack):
    import llama_cpp as llama

    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = bool(repack)
    model = llama.llama_model_load_from_file(model_path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp does not load {model_path}")
    settings = llama.llama_context_default_params()
    settings.n_ctx = max(prompt, tokens) + 16
    settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = threads
    context = llama.llama_init_from_model(model, settings)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def forward(ids):
        array = (llama.llama_token * len(ids))(*ids)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids))) != 0:
            raise SystemExit("llama_decode failed")
        llama.llama_synchronize(context)

    def timed(count, work):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        start = time.perf_counter()
        work()
        return count / (time.perf_counter() - start)

    ids = [(i * 7919 + 13) % vocab for i in range(max(prompt, tokens))]

    def decode(count):
        for i in range(count):
            forward(ids[i : i + 1])

    timed(1, lambda: forward(ids[:64]))
    timed(1, lambda: decode(4))
    print(json.dumps({
        "prefill_tps": timed(prompt, lambda: forward(ids[:prompt])),
        "decode_tps": timed(tokens, lambda: decode(tokens)),
        "bytes": os.path.getsize(model_path),
    }))


def importance(path):
    """llama_model_quantize's list of statistics, and what it points into."""
    import gguf
    import llama_cpp as llama
    import numpy as np

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    means = [np.ascontiguousarray((tensors[n + ".in_sum2"] / tensors[n + ".counts"]).astype(np.float32).ravel()) for n in names]
    entries = (llama.llama_model_imatrix_data * (len(names) + 1))()
    for entry, name, mean in zip(entries, names, means):
        entry.name = name.encode()
        entry.data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = mean.size
    return entries, means


def quantize(source, target, file_type, imatrix=None):
    import llama_cpp as llama

    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    llama.llama_backend_init()
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.nthread = 2
    if imatrix:
        entries, _keep = importance(imatrix)
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama.llama_model_imatrix_data))
    partial = target + ".partial"
    start, cpu = time.perf_counter(), time.process_time()
    if llama.llama_model_quantize(source.encode(), partial.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp does not quantize {source} to {file_type}")
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}))
    os.rename(partial, target)


def logits(model_path, ids, target):
    import llama_cpp as llama
    import numpy as np

    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    ids = [int(i) for i in ids.split(",")]
    model = llama.Llama(model_path, n_ctx=max(64, len(ids)), n_batch=len(ids), n_threads=2, logits_all=True, verbose=False)
    model.eval(ids)
    np.save(target, np.array(model.scores[: len(ids)], dtype=np.float32))


def import_hf(folder, target):
    import gguf
    import numpy as np

    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target + ".partial", "llama", use_temp_file=False)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }

    def name_of(name):
        base = name.removesuffix(".weight")
        if base.startswith("model.layers."):
            layer, part = base.removeprefix("model.layers.").split(".", 1)
            return f"blk.{layer}.{names[part]}.weight"
        return names[base] + ".weight"

    path = folder / "model.safetensors"
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
    for name, tensor in header.items():
        if tensor["dtype"] != "BF16":
            raise SystemExit(f"{name}: expected BF16, found {tensor['dtype']}")
        begin, end = tensor["data_offsets"]
        values = data[begin:end].view(np.uint16).reshape(tensor["shape"])
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:  # llama.cpp pairs neighbouring columns of a head, Hugging Face those half a head apart
                rows, cols = values.shape
                values = values.reshape(count, 2, rows // count // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        if values.ndim == 1:
            widened = values.astype(np.uint32) << 16
            writer.add_tensor(name_of(name), widened.view(np.float32))
        else:
            raw = np.ascontiguousarray(values).view(np.uint8)
            writer.add_tensor(name_of(name), raw, raw_shape=raw.shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(target + ".partial", target)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "bench":
        bench(arguments[0], *map(int, arguments[1:]))
    elif verb == "quantize":
        quantize(*arguments)
    elif verb == "logits":
        logits(*arguments)
    elif verb == "import":
        import_hf(*arguments)
    else:
        raise SystemExit(__doc__)

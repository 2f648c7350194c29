"""onnxruntime-genai, one job for a process, JSON on standard output.

genai_worker.py bench FOLDER THREADS PROMPT TOKENS    {"prefill_tps", "decode_tps", "bytes"}
"""

import json
import os
import sys
import time


def bench(folder, threads, prompt, tokens):
    import onnxruntime_genai as genai

    config = genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)
    with open(os.path.join(folder, "genai_config.json")) as file:
        vocab = json.load(file)["model"]["vocab_size"]
    ids = [(i * 7919 + 13) % vocab for i in range(max(prompt, 64))]

    def run(prompt_tokens, new_tokens):
        params = genai.GeneratorParams(model)
        length = prompt_tokens + new_tokens + 1
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(model, params)
        start = time.perf_counter()
        generator.append_tokens(ids[:prompt_tokens])
        read = time.perf_counter()
        generator.generate_next_token()  # takes the token that the prompt's logits give
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        end = time.perf_counter()
        return prompt_tokens / (read - start), max(new_tokens - 1, 1) / max(end - first, 1e-9)

    run(64, 4)
    size = sum(entry.stat().st_size for entry in os.scandir(folder) if ".onnx" in entry.name)
    print(json.dumps({"prefill_tps": run(prompt, 1)[0], "decode_tps": run(1, tokens)[1], "bytes": size}))


if __name__ == "__main__":
    if sys.argv[1:2] != ["bench"]:
        raise SystemExit(__doc__)
    bench(sys.argv[2], *map(int, sys.argv[3:]))

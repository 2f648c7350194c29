"""onnxruntime-genai goes on from five prompts with the tokens that nibble goes on with, greedily, in float, from a graph that nibble quantized."""
import json
import pathlib
import shutil
import subprocess
import sys

import onnxruntime_genai

import demo
from nibble import DATA, expect, run, scratch

PROMPTS = ["Once upon a time", "The capital of France is", "def fibonacci(n):", "Water boils at", "In 1969, the first"]
TOKENS = 16


def export(source, out, cache):
    """The model builder's graph of a Hugging Face folder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-m", "none", "-o", out, "-p", "fp32", "-e", "cpu", "-c", cache]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    expect(done.returncode == 0, "the builder failed:", done.stderr[-2000:])
    return out


def continued(model, prompt):
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + TOKENS + 1)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(prompt)
    made = []
    while len(made) < TOKENS and not generator.is_done():  # it stops at the end of a text, nibble is told not to
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


def compare(folder, prompts, *flags):
    """`flags`: how a prompt is given to nibble."""
    model = onnxruntime_genai.Model(str(folder))
    for prompt in prompts:
        ours = run("generate", folder, *flags, prompt, "-n", TOKENS, "--greedy", "--ignore-eos", "--compute", "fp32", "--kv-cache", "f32")
        theirs = continued(model, ours["prompt_tokens"])
        expect(theirs and ours["tokens"][:len(theirs)] == theirs, folder.name, repr(prompt), "goes on with", ours["tokens"], "here, with", theirs, "there")


with scratch() as folder:
    folder = pathlib.Path(folder)
    # Tiny models with everything that their families have: Qwen2's biases, Qwen3's norms of heads. The builder wants a tokenizer, whatever it is.
    for name in ("llama", "qwen2", "qwen3"):
        source = folder / f"{name}-hf"
        shutil.copytree(DATA / "models" / name, source)
        shutil.copy(DATA / "tokenizers" / "byte-level.json", source / "tokenizer.json")
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        graph = export(source, folder / name, folder / "cache")
        config = json.loads((graph / "genai_config.json").read_text())
        config["model"] |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # not those of the tokenizer
        (graph / "genai_config.json").write_text(json.dumps(config))
        out = folder / f"{name}-int4"
        run("quantize", graph, "-o", out, "--format", "onnx", "--bits", 4, "--group-size", 16, "--asym", "--algorithm", "rtn")
        for each in (graph, out):
            compare(each, [",".join(str(start + 5 * i) for i in range(6)) for start in range(3, 8)], "--prompt-ids")
    source, out = folder / "demo-hf", folder / "demo-int4"
    run("convert", demo.model(), "-o", source, "--format", "fake", "--dtype", "bf16")
    graph = export(source, folder / "demo", folder / "cache")
    run("quantize", graph, "-o", out, "--format", "onnx", "--bits", 4, "--group-size", 32, "--asym", "--algorithm", "rtn")
    compare(out, PROMPTS, "-p")
print(f"heavy_onnx_genai: {TOKENS} tokens after {len(PROMPTS)} prompts are the same")

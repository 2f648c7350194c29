"""How much each way of quantizing loses, and what it costs: one model, one text, a table of rows.

  cmake --preset release && cmake --build --preset release
  python3 bench/quantize.py --nibble build/release/nibble --model SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext-test.txt --calib novel.txt

With --tool NAME=PYTHON (repeated) foreign tools run too, one process each by bench/quantize_worker.py in an environment of their own
(bench/requirements-quantize.txt), on the model in float32, and nibble evaluates their checkpoint or the floats that their weights stand for:

  ... --tool gptqmodel=venv/bin/python --tool hqq=venv/bin/python --tool inc-awq=venv/bin/python --tool llmcompressor=other/bin/python --tool autoround=other/bin/python

For the comparison on a model that lies on no grid give --model the folder that bench/dither wrote: it is then the reference too.

Each row is quantized from the model as it is, with embedding and head kept, then evaluated against it in lock-step over the first
--windows windows of --ctx tokens. CPU seconds are user + system of the quantizing process, sampling of `self` included; with --repeat the
quantizing runs that many times and its medians count. Prints a Markdown table. --rows picks rows by a regular expression on their names.

--results FILE keeps every row, with its exact settings, the processor and the versions, in the place of an earlier row of the same model
(--label), name and windows. --docs FOLDER then writes the tables of accuracy.md and quantization-speed.md there from that
file: what stands between <!-- rows of LABEL: KIND --> and <!-- end of rows -->. With --rows '^$' nothing is measured, only written.
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile

W4 = ["--bits", "4", "--group-size", "64", "--sym"]
W4A = ["--bits", "4", "--group-size", "64", "--asym"]
W3 = ["--bits", "3", "--group-size", "64", "--asym"]
W2 = ["--bits", "2", "--group-size", "64", "--asym"]
NOVEL = ["--calib", "{calib}", "--samples", "32"]
SELF = ["--calib", "self", "--samples", "32"]
BEST = ["--set", "gptq.passes=4", "--set", "gptq.sweeps=4"]

ROWS = [
    ("w4 sym g64, rtn", [*W4, "--algorithm", "rtn"]),
    ("w4 sym g64, search", [*W4, "--algorithm", "search"]),
    ("w4 asym g64, hqq", [*W4A, "--algorithm", "hqq"]),
    ("w4 sym g64, awq, novel", [*W4, "--algorithm", "awq", *NOVEL]),
    ("w4 sym g64, gptq, novel", [*W4, "--algorithm", "gptq", *NOVEL]),
    ("w4 sym g64, gptq, self", [*W4, "--algorithm", "gptq", *SELF]),
    ("w4 sym g64, gptq, alpha .25, novel", [*W4, "--algorithm", "gptq", *NOVEL, "--set", "gptq.alpha=0.25"]),
    ("w4 sym g64, autoround, novel", [*W4, "--algorithm", "autoround", *NOVEL]),
    ("w4 sym g64, teq, novel", [*W4, "--algorithm", "teq", *NOVEL]),
    ("w4 sym g64, awq,gptq passes 4 sweeps 4, novel", [*W4, "--algorithm", "awq,gptq", *NOVEL, *BEST]),
    ("w4 sym g64, --effort best", [*W4, "--effort", "best"]),
    ("w4 sym g64, sinq,search", [*W4, "--algorithm", "sinq,search"]),
    ("w3 asym g64, hqq", [*W3, "--algorithm", "hqq"]),
    ("w3 asym g64, gptq, novel", [*W3, "--algorithm", "gptq", *NOVEL]),
    ("w3 asym g64, gptq, alpha .25, novel", [*W3, "--algorithm", "gptq", *NOVEL, "--set", "gptq.alpha=0.25"]),
    ("w3 asym g64, gptq, self", [*W3, "--algorithm", "gptq", *SELF]),
    ("w3 asym g64, --effort best", [*W3, "--effort", "best"]),
    ("w2 asym g64, gptq, novel", [*W2, "--algorithm", "gptq", *NOVEL]),
    ("w2 asym g64, --effort best", [*W2, "--effort", "best"]),
]


# Name, tool, arguments of bench/quantize_worker.py.
TOOL_ROWS = [
    ("w4 sym g64, GPTQModel GPTQ, novel", "gptqmodel", []),
    ("w4 sym g64, llm-compressor GPTQ, novel", "llmcompressor", []),
    ("w4 sym g64, INC GPTQ, novel", "inc-gptq", []),
    ("w4 sym g64, AutoRound 30 iterations, novel", "autoround", []),
    ("w4 sym g64, llm-compressor AWQ, novel 4 x 512", "llmcompressor-awq", ["--samples", "4"]),
    ("w4 sym g64, INC AWQ, novel 4 x 512", "inc-awq", ["--samples", "4"]),
    ("w4 sym g64, INC TEQ 20 iterations, novel", "inc-teq", ["--iterations", "20"]),
    ("w4 asym g64, HQQ", "hqq", ["--asym"]),
    ("w3 asym g64, GPTQModel GPTQ, novel", "gptqmodel", ["--bits", "3", "--asym"]),
    ("w3 asym g64, HQQ", "hqq", ["--bits", "3", "--asym"]),
]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def evaluate(options, made, file):
    subprocess.run([options.nibble, "eval", made, "--ref", options.model, "--text", options.text, "--ctx", str(options.ctx), "--chunks", str(options.windows),
                    "--compute", options.compute, "--quiet", "--json", file], check=True, stdout=subprocess.DEVNULL)
    loss = json.loads(file.read_text())
    return {"ppl": loss["ppl"], "ref_ppl": loss["ref"]["ppl"], "kld": loss["kld"]["mean"], "top1": loss["top1"]}


def repeated(options, quantize):
    """quantize() writes the model and says what it cost: the medians of --repeat runs."""
    costs = [quantize() for _ in range(options.repeat)]
    return costs[-1] | {key: statistics.median(cost[key] for cost in costs) for key in ("cpu_seconds", "seconds", "peak_rss_bytes")}


def measure_tool(options, name, tool, arguments):
    with tempfile.TemporaryDirectory(prefix="nibble-bench-") as folder:
        folder = pathlib.Path(folder)
        subprocess.run([options.nibble, "convert", options.model, "-o", folder / "floats", "--format", "fake", "--dtype", "fp32", "--quiet"], check=True)
        worker = pathlib.Path(__file__).with_name("quantize_worker.py")
        python = pathlib.Path(options.tools[tool]).absolute()  # not resolved: a link would lose its environment

        def quantize():
            shutil.rmtree(folder / "made", ignore_errors=True)
            done = subprocess.run([python, worker.resolve(), tool, folder / "floats", folder / "made", "--calib", options.calib.resolve(), *arguments], check=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)  # some leave logs where they run
            return json.loads(done.stdout.strip().splitlines()[-1])

        cost = repeated(options, quantize)
        return {"name": name, "tool": tool, "arguments": arguments, **cost, **evaluate(options, folder / "made", folder / "loss.json")}


def measure(options, name, arguments):
    with tempfile.TemporaryDirectory(prefix="nibble-bench-") as folder:
        made, cost, loss = (pathlib.Path(folder) / part for part in ("model", "cost.json", "loss.json"))

        def quantize():
            command = [argument.replace("{calib}", str(options.calib)) for argument in arguments]
            subprocess.run([options.nibble, "quantize", options.model, "-o", made, "--force", "--quiet", "--json", cost, *command], check=True)
            return json.loads(cost.read_text())

        report = repeated(options, quantize)
        errors = [layer["output_error"] for layer in report["layers"]]
        kept = {key: report[key] for key in ("cpu_seconds", "seconds", "peak_rss_bytes", "bpw")}
        return {"name": name, "arguments": arguments, **kept, "output_error": sum(errors) / len(errors), **evaluate(options, made, loss)}


def settings(row):
    """What was typed, without paths."""
    command = [row["tool"]] if "tool" in row else ["nibble", "quantize"]
    what = " ".join(command + ["NOVEL" if argument == "{calib}" else argument for argument in row["arguments"]])
    return f"`{what}`, version {row['version']}" if "tool" in row else f"`{what}`"


KINDS = {
    "accuracy": (
        ["", "windows", "PPL", "KLD", "top-1", "reference PPL"],
        lambda row: [row["name"], row["windows"], f"{row['ppl']:.2f}", f"{row['kld']:.4f}", f"{row['top1']:.3f}", f"{row['ref_ppl']:.2f}"]),
    "cost": (
        ["", "CPU s", "seconds", "peak RSS MB", "runs", "processor", "settings"],
        lambda row: [row["name"], f"{row['cpu_seconds']:.0f}", f"{row['seconds']:.0f}" if row["seconds"] else "", f"{row['peak_rss_bytes'] / 1e6:.0f}", row["repeat"],
                     row["processor"], settings(row)]),
}


def write_docs(folder, rows):
    for file in (folder / "accuracy.md", folder / "quantization-speed.md"):
        def table(match):
            heads, cells = KINDS[match["kind"]]
            lines = [heads, ["---"] * len(heads)] + [cells(row) for row in rows if row["label"] == match["label"]]
            return match["begin"] + "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines) + "<!-- end of rows -->"

        pattern = r"(?P<begin><!-- rows of (?P<label>[^:]*): (?P<kind>\w+) -->\n).*?<!-- end of rows -->"
        file.write_text(re.sub(pattern, table, file.read_text(), flags=re.DOTALL))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True, help="what is evaluated: never the calibration text")
    parser.add_argument("--calib", type=pathlib.Path, required=True, help="the calibration text of the rows that say novel")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--compute", default="fp32", help="arithmetic of the evaluation")
    parser.add_argument("--repeat", type=int, default=1, help="times that each row is quantized")
    parser.add_argument("--rows", default="", help="regular expression: only rows whose names contain a match")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=PYTHON", help="also run this tool, with this interpreter")
    parser.add_argument("--label", default="demo", help="what the model is called in --results and the tables")
    parser.add_argument("--processor", default=processor(), help="what the machine is called in --results and the tables")
    parser.add_argument("--results", type=pathlib.Path, help="JSON file that the rows are added to")
    parser.add_argument("--docs", type=pathlib.Path, help="folder whose tables are written from --results")
    options = parser.parse_args()
    if options.docs and not options.results:
        parser.error("--docs needs --results, which the tables are written from")
    if options.repeat < 1:
        parser.error("--repeat should be 1 or more")
    options.tools = dict(tool.split("=", 1) for tool in options.tool)
    options.nibble = options.nibble.resolve()
    print("| row | CPU s | peak RSS MB | output error | PPL | KLD | top-1 |\n|---|---|---|---|---|---|---|")
    rows = [(name, lambda name=name, a=arguments: measure(options, name, a)) for name, arguments in ROWS]
    rows += [(name, lambda name=name, t=tool, a=arguments: measure_tool(options, name, t, a)) for name, tool, arguments in TOOL_ROWS if tool in options.tools]
    results = json.loads(options.results.read_text()) if options.results and options.results.exists() else []
    for name, run in rows:
        if not re.search(options.rows, name):
            continue
        row = {"label": options.label, "windows": options.windows, "processor": options.processor, "repeat": options.repeat, **run()}
        error = f"{100 * row['output_error']:.2f} %" if "output_error" in row else ""
        print(f"| {row['name']} | {row['cpu_seconds']:.0f} | {row['peak_rss_bytes'] / 1e6:.0f} | {error} | {row['ppl']:.2f} | {row['kld']:.4f} | "
              f"{row['top1']:.3f} |", flush=True)
        key = ("label", "name", "windows")
        results = [old for old in results if any(old[k] != row[k] for k in key)] + [row]
        order = {other: i for i, (other, _, *_) in enumerate(ROWS + TOOL_ROWS)}
        results.sort(key=lambda row: (row["label"], row["windows"], order.get(row["name"], len(order))))
        if options.results:
            options.results.write_text(json.dumps(results, indent=1) + "\n")
    if options.docs:
        write_docs(options.docs, results)


if __name__ == "__main__":
    main()

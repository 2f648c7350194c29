"""`nibble quantize` and `nibble convert` as a user or a script meets them: exit codes, messages, JSON, and what is left on disk."""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

NIBBLE = os.environ["NIBBLE"]
LLAMA = Path(os.environ["NIBBLE_TEST_DATA"]) / "models/llama"
QUANTIZED = 14  # linears in the blocks of that model
# Of the model whose runs are killed, so that they take about a second: sanitized programs are some thirty times slower.
HIDDEN = 128 if os.environ.get("NIBBLE_SANITIZED") else 512


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="nibble-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.out = self.folder / "out"

    def run_nibble(self, *arguments, code=0):
        done = subprocess.run([NIBBLE, *map(str, arguments)], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        if code:
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        return done

    def quantize(self, *arguments, model=LLAMA, code=0):
        return self.run_nibble("quantize", model, "-o", self.out, *arguments, code=code)

    def nothing_left(self):
        self.assertFalse(self.out.exists())
        self.assertFalse(Path(str(self.out) + ".partial").exists())


class Quantize(Case):
    def test_json_on_stdout_is_alone(self):
        done = self.quantize("--scheme", "w4a16", "--json", "-")
        result = json.loads(done.stdout)
        self.assertEqual(len(result["layers"]), QUANTIZED)
        for layer in result["layers"]:
            self.assertEqual(layer["bits"], 4)
            self.assertGreater(layer["weight_sqnr_db"], 10)
            self.assertTrue(0 < layer["output_error"] < 0.1)
        down = next(layer for layer in result["layers"] if layer["name"] == "model.layers.0.mlp.down_proj")
        self.assertEqual(down["group_size"], 32)
        self.assertIn("128", down["fallback"])
        self.assertEqual(result["bytes"], result["plan"]["bytes_after"])
        self.assertTrue((self.out / "model.safetensors").exists())

    def test_summary_says_what_was_done(self):
        text = self.quantize("--scheme", "W4A16", "--skip", ".*q_proj").stdout
        for part in ("bits per weight", "worst", "--skip '.*q_proj'", "group 128 does not divide", "lm_head kept"):
            self.assertIn(part, text)
        self.assertEqual(self.quantize("--scheme", "W4A16", "--force", "--quiet").stdout, "")

    def test_every_preset_and_dictionary(self):
        for scheme in ("W4A16", "W4A16-asym", "W3A16", "W2A16", "W8A16", "int4_asym_g32", "int4-sym-g128", "INT4-ASYM-G128", "nf4", "FP8", "W8A8", "a8w4dq",
                       "8da4w", "W4A8", "a6w4dq"):
            self.quantize("--scheme", scheme, "--force", "--quiet")
        for dictionary in ('{"linear:int8": {"bitwidth": 8, "groupsize": 0}}', "{'linear:int4': {'groupsize': 32}, 'precision': {'dtype': 'bf16'}}",
                           '{"linear:8da4w": {"groupsize": 32}, "embedding": {"bitwidth": 4, "groupsize": 32}}', '{"embedding": {"bitwidth": 8, "groupsize": 0}}',
                           '{"linear:a6w4dq": {"groupsize": 32}}'):
            self.quantize("--quantize", dictionary, "--force", "--quiet")

    def test_group_size_minus_one_is_a_row(self):
        result = json.loads(self.quantize("--bits", "4", "--group-size", "-1", "--json", "-").stdout)
        self.assertTrue(all(layer["group_size"] == 0 for layer in result["layers"]))

    def test_same_bytes_for_one_and_two_threads(self):
        self.quantize("--scheme", "W3A16", "--threads", "1", "--quiet")
        one = (self.out / "model.safetensors").read_bytes()
        self.quantize("--scheme", "W3A16", "--threads", "2", "--quiet", "--force")
        self.assertTrue((self.out / "model.safetensors").read_bytes() == one)

    def test_dry_run_writes_nothing(self):
        done = self.run_nibble("quantize", LLAMA, "--scheme", "W4A16", "--dry-run")
        self.assertIn("predicted peak memory", done.stdout)
        result = json.loads(self.run_nibble("quantize", LLAMA, "-o", self.out, "--scheme", "W4A16", "--dry-run", "--json", "-").stdout)
        self.assertEqual(sum(tensor["action"] == "quantize" for tensor in result["plan"]["tensors"]), QUANTIZED)
        self.nothing_left()

    def test_recipe_equals_flags(self):
        recipe = self.folder / "recipe.json"
        recipe.write_text(json.dumps({"scheme": "W4A16", "rule": [".*down_proj:bits=8,group=0"], "skip": ".*q_proj", "embedding": "8", "dtype": "bf16"}))
        self.quantize("--recipe", recipe, "--quiet")
        one = (self.out / "model.safetensors").read_bytes()
        self.quantize("--scheme", "W4A16", "--rule", ".*down_proj:bits=8,group=0", "--skip", ".*q_proj", "--embedding", "8", "--dtype", "bf16", "--quiet", "--force")
        self.assertTrue((self.out / "model.safetensors").read_bytes() == one)

    def test_damaged_recipes(self):
        recipe = self.folder / "recipe.json"
        text = '{"scheme": "W4A16", "rule": "x:bits=8", "set": {"rtn.clip": 0.9}}'
        for length in range(len(text)):
            recipe.write_text(text[:length])
            done = self.quantize("--recipe", recipe, code=1)
            self.assertIn("recipe.json", done.stderr)
        recipe.write_text('{"shceme": "W4A16"}')
        self.assertIn("shceme", self.quantize("--recipe", recipe, code=2).stderr)
        self.nothing_left()

    def test_usage_errors(self):
        for arguments, word in ((["--scheme", "W9"], "W4A16"), ([], "nothing to quantize"), (["--bits", "9"], "--bits"), (["--group-size", "x", "--bits", "4"], "--group-size"),
                                (["--scheme", "W4A16", "--act-observer", "minmax"], "add --act static"), (["--scheme", "W4A16", "--format", "x"], "known are"),
                                (["--scheme", "W4A16", "--kv-cache-scheme", "int4"], "none, fp8"), (["--scheme", "W4A16", "--kv-cache-scheme", "fp8", "--format", "awq"], "--format hf"),
                                (["--format", "gguf:Q4_0", "--kv-cache-scheme", "fp8"], "--format hf"),
                                (["--scheme", "W4A16", "--algorithm", "magic"], "rtn"), (["--scheme", "W4A16", "--set", "rtn.x=1"], "rtn"),
                                (["--scheme", "W4A16", "--rule", "x"], "REGEX"), (["--scheme", "W4A16", "--skip", "("], "--skip"),
                                (["--scheme", "W4A16", "--no-fallback"], "--group-size 32"), (["--scheme", "W4A16", "--fail-if", "ppl"], "--fail-if"),
                                (["--scheme", "W4A16", "--dtype", "int8"], "fp32"), (["--bits", "4", "--lm-head", "x"], "--lm-head"),
                                (["--quant", "{'linear:x': {}}"], "linear:x"), (["--scheme", "W4A16", "--quant", "{'linear:int4': {}}"], "keep one"), (["--bits", "4", "--granularity", "tensor", "--group-size", "32"], "granularity")):
            with self.subTest(arguments=arguments):
                done = subprocess.run([NIBBLE, "quantize", LLAMA, "-o", self.out, *arguments], capture_output=True, text=True, timeout=300)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(word, done.stderr)
                self.nothing_left()
        self.assertIn("-o OUT", self.run_nibble("quantize", LLAMA, "--scheme", "W4A16", code=2).stderr)

    def test_gates(self):
        self.quantize("--scheme", "W4A16", "--fail-if", "bpw>32", "--fail-if", "layers.0.weight_sqnr_db<1")
        done = self.quantize("--scheme", "W4A16", "--force", "--fail-if", "bpw>4", "--json", "-", code=3)
        self.assertIn("bpw>4", done.stderr)
        self.assertGreater(json.loads(done.stdout)["bpw"], 4)

    def test_help_algorithms(self):
        text = self.run_nibble("quantize", "--help-algorithms").stdout
        self.assertIn("rtn:", text)
        self.assertIn("--set rtn.", text)

    def test_existing_output(self):
        self.out.mkdir()
        (self.out / "mine").write_text("x")
        self.assertIn("--force", self.quantize("--scheme", "W4A16", code=2).stderr)
        self.assertEqual((self.out / "mine").read_text(), "x")
        self.quantize("--scheme", "W4A16", "--force")
        self.assertFalse((self.out / "mine").exists())

    def test_in_place(self):
        shutil.copytree(LLAMA, self.out)
        self.run_nibble("quantize", self.out, "-o", self.out, "--scheme", "W4A16", "--force")
        self.assertIn("quantization_config", json.loads((self.out / "config.json").read_text()))

    def test_places_that_cannot_be_written(self):
        self.run_nibble("quantize", LLAMA, "-o", self.folder / "no/such/out", "--scheme", "W4A16", code=1)
        (self.folder / "file").write_text("")
        self.run_nibble("quantize", LLAMA, "-o", self.folder / "file/out", "--scheme", "W4A16", code=1)
        if os.geteuid() != 0:
            self.folder.chmod(0o500)
            self.quantize("--scheme", "W4A16", code=1)
            self.folder.chmod(0o700)

    def test_full_disk(self):
        limited = f"ulimit -f 40; trap '' XFSZ; exec {NIBBLE} quantize {LLAMA} -o {self.out} --scheme W4A16"
        done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("model.safetensors", done.stderr)
        self.nothing_left()

    def damaged(self, edit):
        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir()
        shutil.copy(LLAMA / "config.json", model)
        data = bytearray((LLAMA / "model.safetensors").read_bytes())
        (model / "model.safetensors").write_bytes(edit(data))
        return model

    def test_not_a_number(self):
        def poison(data):
            size = struct.unpack("<Q", data[:8])[0]
            header = json.loads(data[8:8 + size])
            begin = header["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
            at = 8 + size + begin + 4 * (3 * 64 + 5)
            data[at:at + 4] = struct.pack("<f", float("nan"))
            return data

        text = self.quantize("--scheme", "W4A16", model=self.damaged(poison), code=1).stderr
        self.assertIn("model.layers.1.mlp.up_proj", text)
        self.assertIn("row 3, column 5", text)
        self.nothing_left()

    def test_truncated_and_flipped_models(self):
        total = (LLAMA / "model.safetensors").stat().st_size
        for length in [0, 1, 7, 8, 9, 100, 2000, total // 2, total - 1]:
            text = self.quantize("--scheme", "W4A16", model=self.damaged(lambda data: data[:length]), code=1).stderr
            self.assertIn("model", text)
        for position in range(8, 700, 23):  # a changed header is refused, or is still a model that can be written
            def flip(data):
                data[position] ^= 4
                return data

            done = subprocess.run([NIBBLE, "quantize", self.damaged(flip), "-o", self.out, "--scheme", "W4A16", "--force"], capture_output=True, text=True, timeout=300)
            self.assertIn(done.returncode, (0, 1), done.stderr)
        model = self.damaged(lambda data: data)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"], "model_type": "no-such"}))
        self.assertIn("NoSuch", self.run_nibble("quantize", model, "-o", self.folder / "x", "--scheme", "W4A16", code=1).stderr)

    def test_killed_runs_resume_to_the_same_bytes(self):
        model = self.folder / "big"
        subprocess.run([NIBBLE, "convert", LLAMA, "-o", model, "--format", "fake", "--quiet"], check=True)
        enlarge(model, blocks=3)
        ids = self.folder / "ids.jsonl"
        ids.write_text("\n".join(json.dumps([(7 * d + 13 * t * t) % 90 + 1 for t in range(48)]) for d in range(6)))
        arguments = ["quantize", model, "--bits", "3", "--group-size", "32", "--algorithm", "gptq", "--calib", ids, "--quiet", "--threads", "1"]
        start = time.time()
        self.run_nibble(*arguments, "-o", self.folder / "whole")
        seconds = time.time() - start
        whole = (self.folder / "whole/model.safetensors").read_bytes()
        killed = 0
        for moment in (0.02, 0.35, 0.6, 0.9):
            process = subprocess.Popen([NIBBLE, *map(str, arguments), "-o", self.out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=moment * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += not self.out.exists()  # else it was finished but for its exit; what it wrote is compared below
            if not self.out.exists():
                self.run_nibble(*arguments, "-o", self.out, "--resume")
            self.assertTrue((self.out / "model.safetensors").read_bytes() == whole)
            self.assertFalse(Path(str(self.out) + ".partial").exists())
            shutil.rmtree(self.out)
        self.assertGreater(killed, 1)

    def test_effort_is_an_algorithm_with_calibration(self):
        ids = self.folder / "ids.json"
        ids.write_text(json.dumps([[(5 * t) % 90 + 1 for t in range(40)]]))
        result = json.loads(self.quantize("--bits", "4", "--group-size", "32", "--effort", "best", "--calib", ids, "--json", "-").stdout)
        self.assertIn("gptq", result["layers"][0]["algorithm"])
        self.assertGreater(result["layers"][0]["percdamp"], 0)
        self.assertEqual(result["calibration"]["documents"], 1)
        self.assertIn("--effort", self.run_nibble("quantize", LLAMA, "-o", self.folder / "x", "--bits", "4", "--effort", "most", code=2).stderr)

    def test_inputs_come_from_quantized_layers_but_with_two_bits(self):
        ids = self.folder / "ids.json"
        ids.write_text(json.dumps([[(5 * t) % 90 + 1 for t in range(40)]]))

        def result(bits, *flags):
            self.quantize("--bits", bits, "--group-size", "32", "--algorithm", "gptq", "--calib", ids, "--quiet", "--force", *flags)
            return (self.out / "model.safetensors").read_bytes()

        for bits in (2, 4):
            either = {flag: result(bits, flag) for flag in ("--true-sequential", "--no-true-sequential")}
            self.assertNotEqual(*either.values())
            self.assertTrue(result(bits) == either["--no-true-sequential" if bits == 2 else "--true-sequential"], bits)

    def test_interrupt_leaves_nothing(self):
        model = self.folder / "big"  # a second of work: the golden model's blocks repeated
        subprocess.run([NIBBLE, "convert", LLAMA, "-o", model, "--format", "fake", "--quiet"], check=True)
        enlarge(model, blocks=40)
        process = subprocess.Popen([NIBBLE, "quantize", model, "-o", self.out, "--bits", "3", "--group-size", "16", "--algorithm", "search", "--threads", "1"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.time() + 60
        while not Path(str(self.out) + ".partial").exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=120)
        if process.returncode != 0:  # it may have been faster than the signal
            self.assertEqual(process.returncode, 130, text)
            self.nothing_left()


def enlarge(model, blocks):
    """Gives the model in `model` more, and wider, blocks: random-looking weights, repeated."""
    config = json.loads((model / "config.json").read_text())
    heads, inner = HIDDEN // 64, 2 * HIDDEN
    config |= {"num_hidden_layers": blocks, "hidden_size": HIDDEN, "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": heads,
               "head_dim": 64}
    (model / "config.json").write_text(json.dumps(config))
    pattern = struct.pack("<1021f", *(((i * 7919) % 1021 - 510) / 5000 for i in range(1021)))
    shapes = {"model.embed_tokens": [256, HIDDEN], "model.norm": [HIDDEN], "lm_head": [256, HIDDEN]}
    for i in range(blocks):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{i}.self_attn.{name}_proj"] = [HIDDEN, HIDDEN]
        shapes |= {f"model.layers.{i}.mlp.gate_proj": [inner, HIDDEN], f"model.layers.{i}.mlp.up_proj": [inner, HIDDEN],
                   f"model.layers.{i}.mlp.down_proj": [HIDDEN, inner], f"model.layers.{i}.input_layernorm": [HIDDEN],
                   f"model.layers.{i}.post_attention_layernorm": [HIDDEN]}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(model / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write((pattern * (offset // len(pattern) + 1))[:offset])


def tensors(folder):
    """Name -> dtype, shape, bytes."""
    data = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    return {name: (entry["dtype"], entry["shape"], data[8 + size:][slice(*entry["data_offsets"])]) for name, entry in header.items()}


class Convert(Case):
    def test_fake_of_a_quantized_model(self):
        self.quantize("--scheme", "W4A16", "--quiet")
        result = json.loads(self.run_nibble("convert", self.out, "-o", self.folder / "fake", "--format", "fake", "--dtype", "bf16", "--json", "-").stdout)
        self.assertEqual(result["bpw"], 16)
        config = json.loads((self.folder / "fake/config.json").read_text())
        self.assertNotIn("quantization_config", config)
        self.assertEqual(config.get("dtype", config.get("torch_dtype")), "bfloat16")

    def test_export_is_the_same_verb(self):
        self.run_nibble("export", LLAMA, "-o", self.out, "--format", "hf", "--quiet")
        self.assertTrue((self.out / "model.safetensors").exists())

    def test_moving_codes_changes_nothing(self):
        self.quantize("--scheme", "W3A16", "--quiet")
        again = self.folder / "again"
        self.run_nibble("convert", self.out, "-o", again, "--format", "hf", "--quiet")
        self.assertTrue(tensors(again) == tensors(self.out))
        self.assertEqual(json.loads((again / "config.json").read_text()), json.loads((self.out / "config.json").read_text()))

    def test_usage_errors(self):
        for arguments in (["--format", "x"], [], ["--format", "fake", "--dtype", "x"], ["--format", "fake", "--scheme", "W4A16"]):
            done = subprocess.run([NIBBLE, "convert", LLAMA, "-o", self.out, *arguments], capture_output=True, text=True, timeout=300)
            self.assertEqual(done.returncode, 2, done.stderr)
        self.run_nibble("convert", self.folder / "nothing", "-o", self.out, "--format", "fake", code=1)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=1))

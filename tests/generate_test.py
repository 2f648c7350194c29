"""The generate and bench verbs on a tiny random checkpoint: generate_test.py NIBBLE MAKE_MODEL."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

NIBBLE, MAKE_MODEL = sys.argv[1:3]
SHAPE = "--hidden 32 --layers 2 --ffn 48 --heads 4 --kv-heads 2 --head-dim 8 --vocab 97 --context 40 --std 0.4".split()


def run(*arguments, **options):
    return subprocess.run([NIBBLE, "generate", *map(str, arguments)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options)


class Generate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = pathlib.Path(cls.folder.name) / "model"
        subprocess.run([MAKE_MODEL, cls.model, *SHAPE], check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def json(self, *arguments):
        done = run(self.model, *arguments, "--json", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_the_checkpoint_depends_on_its_seed_alone(self):
        def weights(name, *more):
            path = pathlib.Path(self.folder.name) / name
            subprocess.run([MAKE_MODEL, path, *SHAPE, *more], check=True, capture_output=True)
            return (path / "model.safetensors").read_bytes()

        one = weights("one", "--threads", "1")
        self.assertEqual(one, weights("two", "--threads", "2"))
        self.assertNotEqual(one, weights("three", "--seed", "1"))

    def test_json(self):
        result = self.json("--prompt-ids", "1,5,9", "--greedy", "--ignore-eos", "-n", 6)
        self.assertEqual(list(result), ["text", "prompt_tokens", "tokens", "prefill_tps", "decode_tps", "stop"])
        self.assertEqual(result["prompt_tokens"], [1, 5, 9])
        self.assertEqual(result["text"], "")
        self.assertEqual(len(result["tokens"]), 6)
        self.assertEqual(result["stop"], "length")
        self.assertGreater(result["prefill_tps"], 0)
        self.assertGreater(result["decode_tps"], 0)

    def test_greedy_goes_on_where_it_stopped(self):
        whole = self.json("--prompt-ids", "1,5,9", "--greedy", "--ignore-eos", "-n", 12, "--kv-cache", "f32")["tokens"]
        prompt = ",".join(map(str, [1, 5, 9] + whole[:7]))
        rest = self.json("--prompt-ids", prompt, "--greedy", "--ignore-eos", "-n", 5, "--kv-cache", "f32")["tokens"]
        self.assertEqual(whole[7:], rest)

    def test_the_seed_decides(self):
        def sample(seed):
            return self.json("--prompt-ids", "3", "--ignore-eos", "-n", 20, "--temp", 1, "--top-k", 0, "--seed", seed)["tokens"]

        self.assertEqual(sample(1), sample(1))
        self.assertNotEqual(sample(1), sample(2))

    def test_a_stop_token_is_the_last_one(self):
        greedy = self.json("--prompt-ids", "1,5,9", "--greedy", "--ignore-eos", "-n", 12)["tokens"]
        config = self.model / "generation_config.json"
        config.write_text(json.dumps({"eos_token_id": [96, greedy[4]]}))
        self.addCleanup(config.unlink)
        result = self.json("--prompt-ids", "1,5,9", "--greedy", "-n", 12)
        self.assertEqual(result["tokens"], greedy[: greedy.index(greedy[4]) + 1])
        self.assertEqual(result["stop"], "eos")

    def test_the_context_ends_a_text(self):
        result = self.json("--prompt-ids", ",".join(["7"] * 36), "--greedy", "--ignore-eos")
        self.assertEqual(result["stop"], "context")
        self.assertEqual(len(result["tokens"]), 5)  # the last one is chosen when 40 are held
        self.assertEqual(len(self.json("--prompt-ids", ",".join(["7"] * 40), "--ignore-eos")["tokens"]), 1)

    def test_compute_check(self):
        result = self.json("--prompt-ids", "1,5", "--greedy", "-n", 2, "--scheme", "w4a16", "--check-compute")
        names = [check["name"] for check in result["compute_check"]]
        self.assertIn("model.layers.1.mlp.down_proj", names)
        self.assertEqual(len(names), 14)
        for check in result["compute_check"]:
            self.assertTrue(0 < check["error"] < 0.05, check)
            self.assertFalse(check["replaced"])
        self.assertEqual(self.json("--prompt-ids", "1,5", "-n", 1, "--check-compute")["compute_check"], [])
        # eval --logits says the same.
        logits = self.model.parent / "logits.safetensors"
        command = [NIBBLE, "eval", self.model, "--ids", "1,5", "--logits", logits, "--scheme", "w4a16", "--compute", "int8", "--check-compute", "--json", "-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["compute_check"], result["compute_check"])
        self.assertIn("compute check: ", done.stderr)

    def test_bench(self):
        command = [NIBBLE, "bench", self.model, "-p", "20", "-n", "8", "-t", "1,2", "-r", "2", "--json", "-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(list(result), ["rows", "isa", "load_seconds", "weights_bytes"])
        self.assertEqual([row["threads"] for row in result["rows"]], [1, 2])
        for row in result["rows"]:
            self.assertEqual(list(row), ["threads", "prefill_tps", "prefill_stddev", "decode_tps", "decode_stddev", "decode_gb_s"])
            self.assertGreater(row["prefill_tps"], 0)
            self.assertGreater(row["decode_gb_s"], 0)
        for arguments, words in [(["-t", "0"], "-t 1,2"), (["-t", "1,x"], "'x'"), (["-p", "41"], "context is 40"), (["-r", "0"], "-r")]:
            with self.subTest(arguments=arguments):
                done = subprocess.run([NIBBLE, "bench", self.model, *arguments], capture_output=True, text=True, timeout=120)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(words, done.stderr)

    def test_refusals(self):
        for arguments, code, words in [
            (["--prompt-ids", ",".join(["7"] * 41)], 2, "41 tokens"),
            (["--prompt-ids", "97"], 2, "97"),
            (["--prompt-ids", "-1"], 2, "is not a token id"),
            (["--prompt-ids", "1,,2"], 2, "is not a token id"),
            (["--prompt-ids", "1", "-p", "x"], 2, "give one of them"),
            (["-p", "x"], 2, "tokenizer"),
            (["--prompt-ids", "1", "--compute", "int3"], 2, "--compute"),
            (["--prompt-ids", "1", "--kv-cache", "q3"], 2, "--kv-cache"),
            (["--prompt-ids", "1", "--top-p", "2"], 2, "top-p"),
            (["--prompt-ids", "1", "--system", "x"], 2, "--chat"),
        ]:
            with self.subTest(arguments=arguments):
                done = run(self.model, *arguments)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(words, done.stderr)
                self.assertEqual(done.stdout, "")

    def test_interrupt_keeps_what_was_generated(self):
        big = pathlib.Path(self.folder.name) / "big"
        shape = "--hidden 256 --layers 8 --ffn 1024 --heads 4 --kv-heads 4 --head-dim 64 --vocab 8192 --context 1000000".split()
        subprocess.run([MAKE_MODEL, big, *shape], check=True, capture_output=True)
        out = pathlib.Path(self.folder.name) / "out.json"
        arguments = [NIBBLE, "generate", str(big), "--prompt-ids", "1", "--ignore-eos", "-n", "900000", "--json", str(out)]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        result = json.loads(out.read_text())
        self.assertEqual(result["stop"], "interrupted")
        self.assertGreater(len(result["tokens"]), 0)


unittest.main(argv=sys.argv[:1], verbosity=2)

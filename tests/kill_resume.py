"""Kills `nibble quantize` at random moments with SIGKILL and resumes it: the model must come out as from an undisturbed run.

  python3 tests/kill_resume.py build/release/nibble MODEL [--kills 20] [--seed 0] [-- OPTIONS OF QUANTIZE]

The default options calibrate on 4 x 128 tokens of the model's own. After each kill OUT must not exist; the next run continues with
--resume. A run that finishes first is compared and the next one starts from nothing. Exits with 1 at the first difference.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time


def digest(folder):
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*")) if file.is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibble", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", default=["--bits", "4", "--group-size", "64", "--algorithm", "gptq", "--samples", "4", "--seqlen", "128"])
    o = parser.parse_args()
    rng = random.Random(o.seed)
    with tempfile.TemporaryDirectory(prefix="nibble-kill-") as folder:
        out, whole = pathlib.Path(folder) / "out", pathlib.Path(folder) / "whole"
        command = [o.nibble, "quantize", o.model, "--quiet", *o.options]
        start = time.time()
        subprocess.run([*command, "-o", whole], check=True)
        took = time.time() - start
        want = digest(whole)
        kills = finished = 0
        blocks = []
        while True:
            run = subprocess.Popen([*command, "-o", out, "--resume"])
            try:
                run.wait(rng.uniform(0, took / 4) if kills < o.kills else None)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
                if out.exists():
                    sys.exit(f"kill {kills}: {out} exists, though the run was not over")
                blocks.append(len(list(out.with_name("out.partial").glob("block-*"))))
                continue
            if run.returncode != 0:
                sys.exit(f"after {kills} kills: exit code {run.returncode}")
            if digest(out) != want:
                sys.exit(f"after {kills} kills: other bytes than the undisturbed run")
            finished += 1
            if kills >= o.kills:
                break
            shutil.rmtree(out)
    print(f"{kills} kills, {finished} finished runs, all with the bytes of the undisturbed one ({took:.1f} s); finished blocks at the kills: {blocks}")


if __name__ == "__main__":
    main()

"""What the scripts beside this file share: our program, test data, a scratch folder."""
import json
import os
import pathlib
import subprocess
import tempfile

PROGRAM = os.environ["NIBBLE"]
DATA = pathlib.Path(os.environ["NIBBLE_TEST_DATA"])


def run(*arguments):
    """Runs nibble and returns its JSON result. Anything but success ends the script."""
    command = [PROGRAM, *map(str, arguments), "--json", "-", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def scratch():
    """A temporary folder for a `with` statement."""
    return tempfile.TemporaryDirectory(prefix="nibble-interop-")


def expect(condition, *message):
    if not condition:
        raise SystemExit(" ".join(map(str, message)))

#!/usr/bin/env python3
"""Fails when a folder of src/ includes one that it must not know.

    layering.py SRC          checks the tree
    layering.py --self-test  checks the checker
"""
import pathlib
import re
import sys
import tempfile

# A folder may include itself and the folders of lower rank. Folders of one rank are siblings and do not know each other.
RANK = {"core": 0, "formats": 1, "kernels": 1, "quant": 2, "algo": 3, "model": 3, "export": 4, "pipeline": 5, "cli": 6}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def violations(src):
    """Yields one line for each include that breaks the order, and for each that the order says nothing about."""
    for path in sorted(src.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".def", ".inc"):
            continue
        relative = path.relative_to(src)
        folder = relative.parts[0]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1).split("/")[0]
            where = f"{relative}:{number}"
            if "/" not in match.group(1) or ".." in match.group(1):
                yield f'{where}: write "folder/file", not "{match.group(1)}"'
            elif folder not in RANK or target not in RANK:
                yield f"{where}: {target if folder in RANK else folder} has no place in the order (tests/layering.py)"
            elif folder != target and RANK[target] >= RANK[folder]:
                yield f"{where}: {folder} must not include {target}"


def self_test():
    cases = [  # file, include, is it a violation?
        ("quant/a.cpp", '#include "formats/b.h"', False),
        ("quant/a.cpp", '#include "quant/b.h"', False),
        ("cli/a.cpp", '#include "core/b.h"', False),
        ("cli/a.cpp", "#include <model/b.h>", False),
        ("core/a.h", '#include "formats/b.h"', True),
        ("formats/a.cpp", '#include "kernels/b.h"', True),
        ("algo/a.cpp", '#include "model/b.h"', True),
        ("model/a.def", ' # include "export/b.h"', True),
        ("model/a.cpp", '#include "../core/b.h"', True),
        ("model/a.cpp", '#include "attic/b.h"', True),
        ("attic/a.cpp", '#include "core/b.h"', True),
    ]
    for file, include, wrong in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, file)
            path.parent.mkdir()
            path.write_text("#pragma once\n" + include + "\n")
            found = list(violations(pathlib.Path(folder)))
            if bool(found) != wrong:
                sys.exit(f"layering self-test: {file} with {include}: expected {'a' if wrong else 'no'} violation, found {found}")
    print(f"layering self-test: {len(cases)} cases")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    src = pathlib.Path(sys.argv[1])
    if not any(src.rglob("*.cpp")):
        sys.exit(f"layering: no sources below {src}")
    found = list(violations(src))
    if found:
        sys.exit("\n".join(found))
    print("layering: every include points down")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fails when a function that the linker shares between object files was compiled for a newer CPU than the program needs.

    isa_leak.py NM OBJDUMP LIBRARY...   checks every object in the libraries
    isa_leak.py --self-test NM OBJDUMP CXX

An inline function is compiled into every object file that uses it as a weak symbol, and the linker keeps whichever copy
comes first. If the copy of an AVX file wins, the whole program needs AVX. So: no weak function may hold a VEX instruction.
"""
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+(?:\{\w+\}\s+)?(\w+)")
# Mnemonics that start with v and are not VEX or EVEX encoded.
PLAIN = {"verr", "verw", "vmcall", "vmlaunch", "vmresume", "vmxoff", "vmread", "vmwrite", "vmptrld", "vmptrst", "vmclear", "vmfunc"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def leaks(nm, objdump, library):
    """Names of weak functions that contain VEX instructions, and the number of all functions that do."""
    weak = set()
    for line in output(nm, "--portability", "--defined-only", library).splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[1] in ("W", "w", "V", "v", "u"):
            weak.add(fields[0])
    modern, current = set(), ""
    for line in output(objdump, "--disassemble", "--no-show-raw-insn", library).splitlines():
        start = FUNCTION.match(line)
        if start:
            current = start.group(1)
            continue
        instruction = INSTRUCTION.match(line)
        if instruction and instruction.group(1).startswith("v") and instruction.group(1) not in PLAIN:
            modern.add(current)
    return sorted(weak & modern), len(modern)


def self_test(nm, objdump, compiler):
    shared = "#include <vector>\nint grow(std::vector<float>& v, float x);\nint grow(std::vector<float>& v, float x) "
    body = "{ v.push_back(x * 2 + 1); return static_cast<int>(v.size()); }\n"
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "a.cpp")
        source.write_text(shared + body)
        for flags, expected in ((["-mavx2"], True), ([], False)):
            subprocess.run([compiler, "-std=c++20", "-O0", *flags, "-c", str(source), "-o", f"{folder}/a.o"], check=True)
            found, _ = leaks(nm, objdump, f"{folder}/a.o")
            if bool(found) != expected:
                sys.exit(f"isa_leak self-test: flags {flags}: found {found}")
    print("isa_leak self-test: a leak is seen, its absence too")


def main():
    if platform.machine() not in ("x86_64", "AMD64"):
        print("isa_leak: only x86-64 has tables that could leak")
        return
    if sys.argv[1:2] == ["--self-test"] and len(sys.argv) == 5:
        return self_test(*sys.argv[2:])
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    nm, objdump, *libraries = sys.argv[1:]
    bad, modern = [], 0
    for library in libraries:
        found, count = leaks(nm, objdump, library)
        modern += count
        bad += [f"{library}: {symbol} is shared code compiled for a newer CPU" for symbol in found]
    if modern == 0:
        sys.exit("isa_leak: no VEX instruction anywhere: the kernels are missing, or this check no longer sees them")
    if bad:
        sys.exit("\n".join(bad) + "\nInclude every header before NIBBLE_TARGET_BEGIN, and use no templates or inline functions inside.")
    print(f"isa_leak: {modern} functions use newer instructions, none of them is shared")


if __name__ == "__main__":
    main()

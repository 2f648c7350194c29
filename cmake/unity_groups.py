"""Groups sources that can be compiled as one translation unit: system headers are then read, and templates made, once for all.

    unity_groups.py FILE...    prints the groups, one a line, files separated by semicolons

Files go together unless one speaks of a name that is another's own (of its unnamed namespace, static, or a macro), so that what they
say together means what it means alone. Files with other using-directives and kernels, which set the instruction set by pragma, stay
apart.
"""
import re
import sys
from pathlib import Path

LINES = 2000  # of a group: enough that the headers cost little, few enough that two processors end at about the same time

COMMENT_OR_TEXT = re.compile(r"""//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""", re.S)
WORD = re.compile(r"[A-Za-z_]\w*")
TYPE = re.compile(r"(?:struct|class|union|enum(?: class)?) (\w+)")
CONSTANT = re.compile(r"\b(k[A-Z]\w*)\s*[={\[,;]")
DECLARATION = re.compile(r"[^({=;\[]*?(\w+)\s*[({=;\[]")
ATTRIBUTE = re.compile(r"^\[\[.*?\]\]\s*", re.M)
USING = re.compile(r"using [^=]*$|namespace \w+ =")


def own_names(text):
    """Needs the project's layout: namespaces are not indented, and a comment stands behind the brace that closes one."""
    names, unnamed = set(), False
    for line in ATTRIBUTE.sub("", text).splitlines():
        if line == "namespace {":
            unnamed = True
        elif line == "}  // namespace":
            unnamed = False
        elif macro := re.match(r"#\s*define\s+(\w+)", line):
            names.add(macro[1])
        elif not line[:1].isalpha() or not (unnamed or line.startswith("static ")) or USING.match(line):
            continue
        elif kind := TYPE.match(line):
            names.add(kind[1])
        elif line.startswith("constexpr "):
            names.update(CONSTANT.findall(line))
        elif declared := DECLARATION.match(line):
            names.add(declared[1])
    return {name for name in names if name != "operator" and not name.startswith(("TEST", "INSTANTIATE_"))}


class Source:
    def __init__(self, path):
        text = Path(path).read_text()
        self.path = path
        self.own = own_names(text)
        self.words = set(WORD.findall(COMMENT_OR_TEXT.sub(" ", text)))
        self.lines = text.count("\n")
        directives = frozenset(re.findall(r"^\s*using namespace .*", text, re.M))
        alone = "NIBBLE_TARGET_BEGIN" in text or re.search(r'#include ".*\.inc"', text)
        self.key = path if alone else directives


def groups(sources):
    result = []
    for source in sources:
        for group in result:
            if (group[0].key == source.key and sum(other.lines for other in group) + source.lines <= LINES and
                    all(not (other.own & source.words or source.own & other.words) for other in group)):
                group.append(source)
                break
        else:
            result.append([source])
    return result


if __name__ == "__main__":
    for group in groups([Source(path) for path in sys.argv[1:]]):
        print(";".join(source.path for source in group))

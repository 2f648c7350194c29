"""llama.cpp runs the demo model in every GGUF type. It rounds activations to 8 bits before it multiplies with blocks, nibble's `eval`
does not. Two controls show that nothing else differs: the same weights dequantized to an F32 file (float32 in both programs), and
nibble computing with 8-bit activations of its own. The bounds of block types are what that rounding costs on this model."""
import pathlib

import demo
import llama_engine
from gguf_models import TYPES
from nibble import expect, run, scratch

EXACT = (0.9999, 0.98)
# F16 and BF16 files: activations are rounded to that type (.99997 for BF16).
BOUNDS = {"F32": EXACT, "F16": EXACT, "BF16": EXACT}
ROUNDED = (0.997, 0.90)  # measured .9971 to .9993, at 90.6 % or more; nibble with 8-bit activations of its own .9997, at 95.3 % or more. The F32 control is the strict one.


def main():
    with scratch() as folder:
        folder = pathlib.Path(folder)
        for kind in TYPES:
            out, floats = folder / f"{kind}.gguf", folder / "floats.gguf"
            run("quantize", demo.model(), "-o", out, "--format", f"gguf:{kind}")
            ours, theirs = demo.nibble_logits(out, folder), llama_engine.logits(out, demo.ids())
            cosine, same = demo.agreement(ours, theirs)
            text = f"heavy_demo_llama: {kind}: cosine {cosine:.6f}, same best token at {same:.1%}"
            least = BOUNDS.get(kind, ROUNDED)
            if kind not in BOUNDS:
                run("convert", out, "-o", floats, "--format", "gguf:F32")
                control = demo.agreement(ours, llama_engine.logits(floats, demo.ids()))
                rounded = demo.agreement(ours, demo.nibble_logits(out, folder, "--compute", "int8"))
                floats.unlink()
                text += f"; its weights as F32 {control[0]:.6f} {control[1]:.1%}; nibble with int8 activations {rounded[0]:.6f} {rounded[1]:.1%}"
                expect(control[0] > EXACT[0] and control[1] >= EXACT[1], text)
            print(text, flush=True)
            expect(cosine > least[0] and same >= least[1], kind, "agrees less than", least)
            out.unlink()


main()

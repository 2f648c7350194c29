"""Checkpoints that other tools quantized: nibble's dequantized weights are the tool's own. bitsandbytes (NF4 and FP4, with and
without quantized scales, LLM.int8()), transformers' FP8 blocks and MXFP4, compressed-tensors' MXFP4."""
import json
import pathlib

import numpy as np
import bitsandbytes
import bitsandbytes.functional as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from nibble import DATA, expect, run, scratch

SOURCE = DATA / "models/llama"
IDS = list(range(3, 60, 3))
torch.manual_seed(0)


def linears(state):
    return [key for key in state if key.endswith("_proj.weight")]


def ulps(got, want):
    """The largest difference in steps of float32."""
    a, b = (np.ascontiguousarray(x.float().numpy()).view(np.int32).astype(np.int64) for x in (got, want))
    a, b = (np.where(x < 0, -(x & 0x7FFFFFFF), x) for x in (a, b))
    return int(np.abs(a - b).max())


def check(title, tensors, wanted, quantization, allowed=0, grid=None):
    """`tensors` is the checkpoint, `wanted` the float32 values of its quantized weights by the tool itself."""
    with scratch() as folder:
        model, out = pathlib.Path(folder, "model"), pathlib.Path(folder, "out")
        model.mkdir()
        config = json.loads((SOURCE / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, model / "model.safetensors")
        run("convert", model, "-o", out, "--format", "fake", "--dtype", "fp32")
        got = load_file(out / "model.safetensors")
        worst = max(ulps(got[key], value) for key, value in wanted.items())
        expect(worst <= allowed, title, "differs by", worst, "units in the last place")
        found = {t["name"]: t for t in run("inspect", model, "--tensors")["tensors"]}
        for key in wanted:
            expect(grid is None or found[key]["dtype"] == grid, title, key, "is", found[key]["dtype"])
        logits = []
        for which in (model, out):
            run("eval", which, "--ids", ",".join(map(str, IDS)), "--logits", out / "logits.safetensors")
            logits.append(load_file(out / "logits.safetensors")["logits"].numpy())
        error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()
        expect(error < 1e-5, title, "computes other logits than its floats, by", error)
        run("generate", model, "--prompt-ids", "3,4,5", "-n", 4, "--greedy", "--ignore-eos")
        if grid:  # its codes can be moved
            run("convert", model, "-o", pathlib.Path(folder, "hf"), "--format", "hf")
            run("convert", pathlib.Path(folder, "hf"), "-o", pathlib.Path(folder, "moved"), "--format", "fake", "--dtype", "fp32")
            moved = load_file(pathlib.Path(folder, "moved/model.safetensors"))
            expect(all(torch.equal(moved[key], got[key]) for key in wanted), title, "codes changed when they moved")
        print(f"heavy_bitsandbytes: {title}: {len(wanted)} weights within {worst} ulp, logits within {error:.1e}")


def dequantized(packed, state):
    """The tool's values. Its CPU kernel (0.50.2) takes wrong scales where blocks cross the ends of rows, off by more than a step of the
    grid; there its portable implementation counts, which agrees with the weights that were quantized."""
    if state.shape[1] % state.blocksize == 0:
        return bnb.dequantize_4bit(packed, state).float()
    scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    return _dequantize_4bit_compute(packed.reshape(-1), scales, state.code, state.blocksize, state.shape, torch.float32)


def blockwise(kind, block, nested):
    tensors, wanted = load_file(SOURCE / "model.safetensors"), {}
    for key in linears(tensors):
        packed, state = bnb.quantize_4bit(tensors[key], blocksize=block, compress_statistics=nested, quant_type=kind)
        wanted[key] = dequantized(packed, state)
        tensors[key] = packed
        tensors |= {f"{key}.{part}": value for part, value in state.as_dict(packed=True).items()}
    columns = {value.shape[1] % block for value in wanted.values()}
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
    check(f"{kind} g{block}{' nested' if nested else ''}", tensors, wanted, config, grid={"nf4": "nf4", "fp4": "fp4_bnb"}[kind] if columns == {0} else None)


def int8():
    tensors, wanted = load_file(SOURCE / "model.safetensors"), {}
    for key in linears(tensors):
        codes, scale, _ = bnb.int8_vectorwise_quant(tensors[key].half())
        wanted[key] = bnb.int8_vectorwise_dequant(codes, scale).float()
        tensors[key] = codes
        tensors[key.removesuffix("weight") + "SCB"] = scale
        tensors[key.removesuffix("weight") + "weight_format"] = torch.tensor(0, dtype=torch.uint8)
    check("int8", tensors, wanted, {"quant_method": "bitsandbytes", "load_in_8bit": True}, allowed=1, grid="int8")


def fp8(block):
    tensors, wanted = load_file(SOURCE / "model.safetensors"), {}
    for key in linears(tensors):
        weight = tensors[key]
        rows, columns = weight.shape
        height, width = block or (rows, columns)
        blocks = weight.reshape(rows // height, height, columns // width, width)
        scale = blocks.abs().amax(dim=(1, 3)) / 448
        tensors[key] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
        wanted[key] = Fp8Dequantize(None)._dequantize_one(tensors[key], scale, torch.float32)
        tensors[key + "_scale_inv"] = scale if block else scale.reshape(())
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block) if block else None}
    check(f"fp8 {block}", tensors, wanted, config, grid="fp8")


def mxfp4():
    """gpt-oss' own layout on the linears of a model that nibble runs."""
    tensors, wanted = load_file(SOURCE / "model.safetensors"), {}
    for key in linears(tensors):
        rows, columns = tensors.pop(key).shape
        blocks = torch.randint(0, 256, (1, rows, columns // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 122, (1, rows, columns // 32), dtype=torch.uint8)
        wanted[key] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)[0].T
        tensors[key + "_blocks"], tensors[key + "_scales"] = blocks[0], scales[0]
    check("mxfp4", tensors, wanted, {"quant_method": "mxfp4"}, grid="fp4")


def packed_mxfp4():
    tensors, wanted = load_file(SOURCE / "model.safetensors"), {}
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format="mxfp4-pack-quantized")
    compressor = BaseCompressor.get_value_from_registry("mxfp4-pack-quantized")
    for key in linears(tensors):
        module = key.removesuffix("weight")
        weight = tensors.pop(key)
        scale = 2.0 ** torch.floor(torch.log2(weight.reshape(weight.shape[0], -1, 32).abs().amax(2) / 4))
        parts = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
        wanted[key] = compressor.decompress(dict(parts), scheme)["weight"].float()
        tensors |= {module + name: value for name, value in parts.items() if value is not None}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    config = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups": {"group_0": group},
              "ignore": ["lm_head"], "quantization_status": "compressed"}
    check("compressed-tensors mxfp4", tensors, wanted, config, grid="fp4")


def written_by_transformers(title, **options):
    """What save_pretrained() makes of a model that bitsandbytes quantized while it was loaded."""
    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(DATA / "models/qwen3", quantization_config=config, dtype=torch.float32, device_map="cpu")
    with scratch() as folder:
        saved, out = pathlib.Path(folder, "saved"), pathlib.Path(folder, "out")
        model.save_pretrained(saved)
        run("convert", saved, "-o", out, "--format", "fake", "--dtype", "fp32")
        got, compared = load_file(out / "model.safetensors"), 0
        for name, module in model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                want = dequantized(module.weight.data.view(torch.uint8), module.weight.quant_state)
            elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
                want = bnb.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).float()
            else:
                continue
            worst = ulps(got[name + ".weight"], want)
            expect(worst <= ("load_in_8bit" in options), title, name, "differs by", worst, "units in the last place")
            compared += 1
        expect(compared == 14, title, "compared", compared, "weights")
        run("eval", saved, "--ids", ",".join(map(str, IDS)), "--logits", out / "logits.safetensors")
        print(f"heavy_bitsandbytes: {title} as transformers saves it: {compared} weights equal")


for kind in ("nf4", "fp4"):
    for block in (32, 64):
        for nested in (False, True):
            blockwise(kind, block, nested)
int8()
written_by_transformers("nf4", load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=torch.bfloat16)
written_by_transformers("int8", load_in_8bit=True)
fp8((16, 32))
fp8(None)
mxfp4()
packed_mxfp4()

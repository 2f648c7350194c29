"""Vocabularies trained here by the tokenizers library: nibble finds the same ids and texts."""
import pathlib

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nibble import DATA, expect, run, scratch

BOOK = DATA / "alice.txt"
CASES = [
    BOOK.read_text(),
    "",
    " ",
    "  leading and trailing  ",
    "tabs\tand\r\nlines\n\n\n",
    "caf\u00e9 na\u00efve \u4f60\u597d \U0001f600 \u0301e",
    "don't I'll we've 12345 3.14 x=y+1; {}[]",
    "a" * 1000,
    "<|end|>the end<|end|>",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train([str(BOOK)], trainer)
    return tokenizer


def byte_fallback():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Trained on words: without a pre-tokenizer every paragraph would be one word.
    words = [f"\u2581{word}" for word in BOOK.read_text().split()]
    special = ["<unk>", "<|end|>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False))
    return tokenizer


checked = 0
for make in (byte_level, byte_fallback):
    tokenizer = make()
    with scratch() as folder:
        tokenizer.save(str(pathlib.Path(folder, "tokenizer.json")))
        # Read back: the file, not the object, is what both must agree on.
        tokenizer = Tokenizer.from_file(str(pathlib.Path(folder, "tokenizer.json")))
        file = pathlib.Path(folder, "case.txt")
        for text in CASES:
            file.write_bytes(text.encode())
            want = tokenizer.encode(text, add_special_tokens=False).ids
            got = run("tokenize", folder, "--file", file)["ids"]
            expect(got == want, make.__name__, repr(text[:60]), "gives", got[:40], "and not", want[:40])
            if want and len(want) < 500:
                said = run("tokenize", folder, "--decode", ",".join(map(str, got)))["text"]
                expect(said == tokenizer.decode(want, skip_special_tokens=False), make.__name__, "decodes", repr(said))
            checked += 1
print(f"check_tokenizers: {checked} texts agree")

#!/usr/bin/env python3
"""Writes the small tokenizers of this folder and what the reference implementations make of some texts.

Needs the PyPI packages tokenizers, sentencepiece and gguf (numpy comes with it). Every NAME.json is a tokenizer.json;
NAME.cases.json holds {"text", "ids", "special" (ids with BOS/EOS), "decoded"}. spm.model and spm.gguf are one SentencePiece
vocabulary, bpe.gguf is byte-level.json's vocabulary in a GGUF.
"""
import json
import random
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
random.seed(7)

WORDS = """the quick brown fox jumps over a lazy dog while seven small boats sail around an island where nobody lives except
two old painters who argue about light and water every single morning before breakfast because one of them thinks that
colours are numbers and the other believes that numbers are only tired colours waiting to be mixed again tomorrow""".split()
OTHER = ["naïve café", "Größe", "日本語のテキスト", "привет мир", "한국어", "x = y[0] + 42;", "don't", "WE'RE", "3.14159", "1,000,000"]


def sentence():
    words = [random.choice(WORDS) for _ in range(random.randint(4, 14))]
    if random.random() < 0.3:
        words.insert(random.randrange(len(words)), random.choice(OTHER))
    return " ".join(words).capitalize() + random.choice([".", "!", "?", " ...", ",\n", "\n\n"])


CORPUS = [" ".join(sentence() for _ in range(5)) for _ in range(200)]

FRAGMENTS = ["Hello", " world", "  ", "\n", "\t", "\r\n", "don't", "DON'T", "123", "4567", "½", "é", "e\u0301", "ﬁ", "日本", "語の", "🚀", "👩‍👩‍👧‍👦",
             "\u00a0", "\u180e", "\u2028", "\u3000", "'ſ", "İ", "ß", "हिन्दी", "<s>", "</s>", "<unk>", "[MASK]", " [MASK] ", "<|end|>", "▁", "...", "x_y",
             "\x00", "\ufffd", "tok", "token", "  tok  ", " the", " water", "numbers", "<0x41>", "Ġ", "a", "A"]
TEXTS = ["", " ", "a", "  ", "\n", "a" * 100, " " * 70 + "x", "ab" * 60, "the quick brown fox " * 12]
TEXTS += ["".join(random.choice(FRAGMENTS) for _ in range(random.randint(1, 12))) for _ in range(60)]
TEXTS += [sentence() for _ in range(8)]

ADDED = [AddedToken("[MASK]", lstrip=True, special=True), AddedToken("<|end|>", rstrip=True, special=True), AddedToken("tok", single_word=True),
         AddedToken("token", normalized=True), AddedToken("  ", normalized=False)]
LLAMA3 = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = pre_tokenizers.ByteLevel.alphabet()


def write_cases(name, encode, special, decode):
    cases = [{"text": t, "ids": encode(t), "special": special(t), "decoded": decode(encode(t))} for t in TEXTS]
    (HERE / f"{name}.cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")


def build(name, *, normalizer=None, pre=None, decoder=None, post=None, added=(), size=500, alphabet=(), bpe=None, trainer=None):
    tokenizer = Tokenizer(models.BPE(**({"unk_token": "<unk>"} if bpe is None else bpe)))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                                              initial_alphabet=list(alphabet), **(trainer or {})))
    if post:
        tokenizer.post_processor = post
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    (HERE / f"{name}.json").write_text(tokenizer.to_str() + "\n")
    write_cases(name, lambda t: tokenizer.encode(t, add_special_tokens=False).ids, lambda t: tokenizer.encode(t).ids,
                lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    return tokenizer


def template(single):
    return processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])


build("byte-level", pre=pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel(), alphabet=BYTES, added=ADDED,
      post=template("<s> $A </s>"), bpe={})
build("byte-level-prefix", normalizer=normalizers.NFC(), pre=pre_tokenizers.ByteLevel(add_prefix_space=True), decoder=decoders.ByteLevel(), alphabet=BYTES,
      added=ADDED, post=processors.RobertaProcessing(("</s>", 2), ("<s>", 1)), bpe={})
build("split-regex", pre=pre_tokenizers.Sequence([pre_tokenizers.Split(LLAMA3, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
      decoder=decoders.ByteLevel(), alphabet=BYTES, bpe={"ignore_merges": True},
      post=processors.Sequence([processors.ByteLevel(), template("<s> $A")]))
byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
fallback = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
build("metaspace", pre=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), decoder=decoders.Metaspace(prepend_scheme="first"), bpe=fallback,
      added=ADDED, size=300)
llama_decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
llama = build("byte-fallback", normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), decoder=llama_decoder, bpe=fallback,
              added=ADDED, size=300, post=template("<s> $A"), trainer={"limit_alphabet": 40})
# The trainer knows nothing of byte tokens: add them to the vocabulary, so that the fallback has something to fall back to.
spec = json.loads(llama.to_str())
next_id = 1 + max(list(spec["model"]["vocab"].values()) + [a["id"] for a in spec["added_tokens"]])
spec["model"]["vocab"].update({a["content"]: a["id"] for a in spec["added_tokens"]})
spec["model"]["vocab"].update({token: next_id + i for i, token in enumerate(byte_tokens)})
llama = Tokenizer.from_str(json.dumps(spec))
(HERE / "byte-fallback.json").write_text(llama.to_str() + "\n")
write_cases("byte-fallback", lambda t: llama.encode(t, add_special_tokens=False).ids, lambda t: llama.encode(t).ids,
            lambda ids: llama.decode(ids, skip_special_tokens=False))
build("suffix", pre=pre_tokenizers.Whitespace(), decoder=decoders.BPEDecoder(), size=200, bpe={"unk_token": "<unk>", "end_of_word_suffix": "</w>"},
      trainer={"end_of_word_suffix": "</w>"})
build("prefix", pre=pre_tokenizers.WhitespaceSplit(), size=300, bpe={"unk_token": "<unk>", "continuing_subword_prefix": "##"},
      trainer={"continuing_subword_prefix": "##"})
for name, normalizer in {
        "nfkc-lower": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]),
        "nfd-accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        "nmt-replace": normalizers.Sequence([normalizers.Nmt(), normalizers.NFKD(), normalizers.Replace(Regex(r"\s+"), "_"), normalizers.Replace("a", "xyz")]),
        "byte-level-normalizer": normalizers.ByteLevel()}.items():
    build(name, normalizer=normalizer, pre=pre_tokenizers.Metaspace(prepend_scheme="first"), decoder=decoders.Metaspace(), added=ADDED, size=150)
for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
    build(f"split-{behavior.replace('_', '-')}", added=ADDED, size=120, pre=pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\s|\d{2}|[aeiou]"), behavior), pre_tokenizers.Split("o", behavior, invert=True), pre_tokenizers.Punctuation(behavior)]))
build("classes", size=120, pre=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.BertPreTokenizer(), pre_tokenizers.CharDelimiterSplit("q"),
                                                       pre_tokenizers.FixedLength(4)]))

# One SentencePiece vocabulary: as the library's own file, and as a GGUF.
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(line for text in CORPUS for line in text.splitlines() if line.strip()), model_prefix=str(HERE / "spm"), model_type="bpe", vocab_size=600,
    byte_fallback=True, character_coverage=0.99, user_defined_symbols=["<|mark|>"], normalization_rule_name="identity",
    remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2)
(HERE / "spm.vocab").unlink()
sp = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "spm.model"))
sp_texts = [t for t in TEXTS if "<s>" not in t and "</s>" not in t and "<unk>" not in t and "\x00" not in t] + ["a<|mark|>b", "<|mark|>"]
(HERE / "spm.cases.json").write_text(json.dumps([{"text": t, "ids": sp.encode(t), "special": [sp.bos_id()] + sp.encode(t), "decoded": sp.decode(sp.encode(t))}
                                                 for t in sp_texts], ensure_ascii=False, separators=(",", ":")) + "\n")


def write_gguf(name, model, tokens, types, scores=None, merges=None, **flags):
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    if "pre" in flags:
        writer.add_tokenizer_pre(flags["pre"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sp_type(i):
    return 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if sp.id_to_piece(i) == "<|mark|>" else 1


count = sp.get_piece_size()
write_gguf("spm", "llama", [sp.id_to_piece(i) for i in range(count)], [sp_type(i) for i in range(count)], scores=[sp.get_score(i) for i in range(count)])
spec = json.loads((HERE / "byte-level.json").read_text())
by_id = sorted(spec["model"]["vocab"].items(), key=lambda item: item[1])
write_gguf("bpe", "gpt2", [token for token, _ in by_id], [3 if i < 3 else 1 for _, i in by_id], merges=[" ".join(m) for m in spec["model"]["merges"]], pre="smollm")

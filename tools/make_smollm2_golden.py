#!/usr/bin/env python3
"""Makes tests/fixtures/models/smollm2/greedy.json and loglikelihoods.json: greedy continuations, and
log-likelihoods of given ones, by transformers of a real model, SmolLM2-135M-Instruct in Q4_1,
dequantised to float32.

    tools/make_smollm2_golden.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

Run by hand, with torch, transformers and gguf installed. Per prompt: text, its token ids, the ids of
the continuation and, for each step, the difference of the two largest logits. Per pair of a context
and its continuation: texts, token ids, the sum of the continuation's log-probabilities in nats, and
whether each of its tokens is the likeliest.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
import transformers

NEW_TOKENS = 64
PROMPTS = [
    "The capital of France is", "Once upon a time, in a small village,", "def fibonacci(n):\n",
    "Water boils at", "The quick brown fox", "1, 2, 3, 4, 5,", "In 1969, the first humans",
    "A recipe for pancakes:\n1.", "The derivative of x^2 is", "Photosynthesis is the process by which",
    "Dear Sir or Madam,\n", "Die Hauptstadt von Deutschland ist", "import numpy as np\n\nx = ",
    "Q: What is the largest planet?\nA:", "She opened the door and", "The French Revolution began",
    "SELECT name FROM users WHERE", "To be, or not to be,", "Machine learning is", "\n\n# Introduction\n\n",
]
# lm-evaluation-harness moves blanks at the end of a context into the continuation: here is none.
PAIRS = [(context, continuation)
         for context, choices in {
             "The capital of France is": [" Paris", " Berlin", " the city of Lyon in the south"],
             "Q: What is the largest planet?\nA:": [" Jupiter", " The Earth", " Jupiter is the largest planet."],
             "1, 2, 3, 4,": [" 5, 6, 7, 8", " 5, 6, 8, 9"],
             "Water boils at": [" 100 degrees Celsius", " 37 degrees"],
             "def fibonacci(n):": ["\n    if n <= 1:\n        return n\n", "\n    return 42\n"],
             "Die Hauptstadt von Deutschland ist": [" Berlin.", " München."],
             "The quick brown fox": [" jumps over the lazy dog", " 🦊 sleeps"],
             "A": [" B", " story about a cat.\n\n"],
         }.items() for continuation in choices]
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def metadata(reader, key):
    field = reader.fields[key]
    return field.contents()


def load(path):
    reader = gguf.GGUFReader(path)
    heads = metadata(reader, "llama.attention.head_count")
    kv_heads = metadata(reader, "llama.attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        value = value.reshape([int(d) for d in reversed(tensor.shape)])
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            count = {"attn_q": heads, "attn_k": kv_heads}.get(parts[2])
            if count:  # GGUF keeps rotary pairs side by side, transformers half a head apart
                value = value.reshape(count, value.shape[0] // count // 2, 2, -1).swapaxes(1, 2)
                value = value.reshape(-1, value.shape[-1])
            name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm",
                    "output": "lm_head"}[parts[0]] + ".weight"
        state[name] = torch.from_numpy(np.ascontiguousarray(value))
    tied = "lm_head.weight" not in state
    embed = state["model.embed_tokens.weight"]
    if tied:
        state["lm_head.weight"] = embed
    config = transformers.LlamaConfig(
        vocab_size=embed.shape[0], hidden_size=embed.shape[1],
        intermediate_size=metadata(reader, "llama.feed_forward_length"),
        num_hidden_layers=metadata(reader, "llama.block_count"), num_attention_heads=heads,
        num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        max_position_embeddings=metadata(reader, "llama.context_length"),
        rms_norm_eps=metadata(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default",
                         "rope_theta": metadata(reader, "llama.rope.freq_base")})
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(state, strict=True)
    return model


def continue_greedily(model, ids):
    out, margins, cache = [], [], None
    current = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            result = model(current, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            top = result.logits[0, -1].topk(2)
            out.append(int(top.indices[0]))
            margins.append(round(float(top.values[0] - top.values[1]), 5))
            current = torch.tensor([[out[-1]]])
    return out, margins


def log_likelihood(model, context, continuation):
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1:-1]
    chosen = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(continuation)[:, None])
    return round(float(chosen.sum()), 6), bool((logits.argmax(-1) == torch.tensor(continuation)).all())


def write(path, args, cases):
    lines = ",\n  ".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"model": "{args.gguf.name}", "transformers": "{transformers.__version__}", '
                    f'"cases": [\n  {lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/models/smollm2"
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=default)
    args = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(args.gguf.parent),
                                                           gguf_file=args.gguf.name)
    model = load(args.gguf)
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        tokens, margins = continue_greedily(model, ids)
        print(repr(prompt), "->", repr(tokenizer.decode(tokens[:16])), min(margins), flush=True)
        cases.append({"prompt": prompt, "ids": ids, "tokens": tokens, "margins": margins})
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "greedy.json", args, cases)
    cases = []
    for context, continuation in PAIRS:
        ids = tokenizer(context, add_special_tokens=False).input_ids
        added = tokenizer(context + continuation, add_special_tokens=False).input_ids[len(ids):]
        value, greedy = log_likelihood(model, ids, added)
        print(repr(context), "->", repr(continuation), value, greedy, flush=True)
        cases.append({"context": context, "continuation": continuation, "context_ids": ids,
                      "continuation_ids": added, "log_likelihood": value, "greedy": greedy})
    write(args.out / "loglikelihoods.json", args, cases)


if __name__ == "__main__":
    main()

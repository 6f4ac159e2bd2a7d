#!/usr/bin/env python3
"""Makes tests/fixtures/models: tiny models of every family with golden logits from transformers.

Run by hand, with torch, transformers and gguf installed, when a family or a case is added:

    tools/make_tiny_model.py [--out tests/fixtures/models] [case ...]

Each case is a folder with config.json, golden.json (generator settings, prompts) and golden.f32
(float32 logits of every prompt at every position, one after the other). Most folders have no
weights: they are drawn from the counter-based generator of src/model/source_dummy.cc, of which
`draw` below is the other copy. Cases with `files` also hold them as transformers (safetensors) or
gguf write them.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers

SETTINGS = {"seed": 20261123, "matrix_deviation": 0.12, "norm_deviation": 0.2, "bias_deviation": 0.3}

V4_COMMON = {"hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-5,
             "use_cache": True, "bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.0,
             "torch_dtype": "bfloat16", "transformers_version": "4.46.0"}


def v4(architecture, model_type, **fields):
    """config.json as transformers 4 writes it."""
    return {"architectures": [architecture], "model_type": model_type, **V4_COMMON, **fields}


def llama(**fields):
    base = {"rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
            "max_position_embeddings": 128, "pretraining_tp": 1}
    return v4("LlamaForCausalLM", "llama", **{**base, **fields})


def sizes(hidden, inter, layers, heads, kv_heads, vocab, tied, head_dim=None):
    fields = {"hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
              "tie_word_embeddings": tied}
    return fields if head_dim is None else {**fields, "head_dim": head_dim}


LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16, "rope_type": "llama3"}

# name: (config as transformers 4 writes it, whether to rewrite it as transformers 5 does, files)
CASES = {
    "llama_tied_d64": (llama(**sizes(96, 172, 2, 4, 2, 257, True, 64)), False, None),
    "llama_mha_d80": (llama(**sizes(160, 200, 2, 2, 2, 131, False)), True, None),
    "llama3_gqa4_d128": (llama(**sizes(64, 120, 3, 4, 1, 173, False, 128), rope_theta=500000.0,
                               rope_scaling=LLAMA3_ROPE), False, None),
    "llama3_gqa8_d64": (llama(**sizes(48, 100, 2, 8, 1, 211, True, 64), rope_theta=500000.0,
                              rope_scaling={**LLAMA3_ROPE, "factor": 32.0}), True, None),
    "llama_linear_bias": (llama(**sizes(72, 90, 2, 4, 2, 119, False, 32), attention_bias=True,
                                mlp_bias=True, rope_scaling={"type": "linear", "factor": 4.0}),
                          False, None),
    "mistral_window": (v4("MistralForCausalLM", "mistral", **sizes(64, 140, 2, 4, 2, 149, False, 32),
                          rope_theta=10000.0, sliding_window=5, max_position_embeddings=128),
                       False, None),
    "mistral_full_d128": (v4("MistralForCausalLM", "mistral",
                             **sizes(80, 96, 2, 4, 2, 197, False, 128), rope_theta=1000000.0,
                             sliding_window=None, max_position_embeddings=128), True, None),
    "qwen2_tied": (v4("Qwen2ForCausalLM", "qwen2", **sizes(112, 130, 2, 7, 1, 307, True),
                      rope_theta=1000000.0, use_sliding_window=False, sliding_window=4,
                      max_window_layers=1, max_position_embeddings=128), False, None),
    "qwen2_window": (v4("Qwen2ForCausalLM", "qwen2", **sizes(96, 132, 3, 4, 2, 151, False),
                        rope_theta=1000000.0, use_sliding_window=True, sliding_window=4,
                        max_window_layers=1, max_position_embeddings=128), False, None),
    "qwen2_window_types": (v4("Qwen2ForCausalLM", "qwen2", **sizes(96, 132, 3, 4, 4, 151, False),
                              rope_theta=1000000.0, use_sliding_window=True, sliding_window=6,
                              max_window_layers=2, max_position_embeddings=128), True, None),
    "qwen3_tied_d128": (v4("Qwen3ForCausalLM", "qwen3", **sizes(80, 104, 2, 4, 2, 283, True, 128),
                           rope_theta=1000000.0, use_sliding_window=False, sliding_window=None,
                           max_window_layers=2, attention_bias=False, max_position_embeddings=128),
                        False, None),
    "qwen3_bias_d64": (v4("Qwen3ForCausalLM", "qwen3", **sizes(64, 88, 3, 8, 1, 167, False, 64),
                          rope_theta=1000000.0, use_sliding_window=False, sliding_window=None,
                          max_window_layers=3, attention_bias=True, max_position_embeddings=128),
                       True, None),
    "mixtral_e4": (v4("MixtralForCausalLM", "mixtral", **sizes(64, 76, 2, 4, 2, 137, False, 64),
                      rope_theta=1000000.0, sliding_window=None, num_local_experts=4,
                      num_experts_per_tok=2, max_position_embeddings=128), False, None),
    "mixtral_e8_window": (v4("MixtralForCausalLM", "mixtral", **sizes(56, 60, 2, 4, 1, 139, False, 32),
                             rope_theta=1000000.0, sliding_window=6, num_local_experts=8,
                             num_experts_per_tok=3, max_position_embeddings=128), True, None),
    "file_llama_f32": (llama(**sizes(48, 60, 2, 4, 2, 101, False), torch_dtype="float32"), False,
                       "safetensors"),
    "file_qwen2_f16_sharded": (v4("Qwen2ForCausalLM", "qwen2", **sizes(48, 60, 3, 4, 2, 103, True),
                                  rope_theta=1000000.0, use_sliding_window=False,
                                  max_position_embeddings=128, torch_dtype="float16"), True,
                               "sharded"),
    "file_mixtral_bf16_sharded": (v4("MixtralForCausalLM", "mixtral",
                                     **sizes(40, 36, 2, 4, 2, 97, False), rope_theta=1000000.0,
                                     sliding_window=None, num_local_experts=4,
                                     num_experts_per_tok=2, max_position_embeddings=128), True,
                                  "sharded"),
    "gguf_llama3": (llama(**sizes(64, 96, 2, 4, 2, 109, True), rope_theta=500000.0,
                          rope_scaling=LLAMA3_ROPE), False, "gguf"),
    "gguf_mixtral": (v4("MixtralForCausalLM", "mixtral", **sizes(64, 32, 2, 4, 2, 107, False),
                        rope_theta=1000000.0, sliding_window=None, num_local_experts=4,
                        num_experts_per_tok=2, max_position_embeddings=128), False, "gguf"),
    "gguf_qwen3": (v4("Qwen3ForCausalLM", "qwen3", **sizes(64, 96, 2, 4, 2, 113, False, 32),
                      rope_theta=1000000.0, use_sliding_window=False, sliding_window=None,
                      attention_bias=False, max_position_embeddings=128), False, "gguf"),
}
PROMPT_LENGTHS = [1, 2, 13, 37]


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def mix32(x):
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def draw(name, shape, settings):
    """The tensor `name` as src/model/source_dummy.cc draws it, bit for bit."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    key = mix64(settings["seed"] ^ key)
    is_norm = name.endswith("norm.weight")
    deviation = settings["norm_deviation" if is_norm else
                         "bias_deviation" if name.endswith(".bias") else "matrix_deviation"]
    scale = np.float32(deviation / (37837.22746 * 256))
    rows, cols = (1, shape[0]) if len(shape) == 1 else (shape[0], int(np.prod(shape[1:])))
    out = np.empty((rows, cols), np.float32)
    col = np.arange(cols, dtype=np.uint32)
    with np.errstate(over="ignore"):
        for row in range(rows):
            row_key = mix64((key + row) & 0xFFFFFFFFFFFFFFFF)
            a = mix32(col * np.uint32(0x9E3779B9) + np.uint32(row_key & 0xFFFFFFFF))
            b = mix32(col * np.uint32(0x85EBCA77) + np.uint32(row_key >> 32))
            m = np.uint32(0xFFFF)
            total = (a & m) + (a >> np.uint32(16)) + (b & m) + (b >> np.uint32(16))
            fine = total * np.uint32(256) + (((a ^ b) >> np.uint32(12)) & np.uint32(0xFF))
            centred = fine.astype(np.int64) - ((2 * 65535) * 256 + 128)
            out[row] = centred.astype(np.float32) * scale
    if is_norm:
        out = out + np.float32(1)
    return out.reshape(shape)


def checkpoint_tensors(config):
    """{published name: shape} of a config's checkpoint."""
    h, d = config.hidden_size, getattr(config, "head_dim", None)
    d = d or h // config.num_attention_heads
    q, kv = config.num_attention_heads * d, config.num_key_value_heads * d
    inter, family = config.intermediate_size, config.model_type
    attention_bias = getattr(config, "attention_bias", False)
    names = {"model.embed_tokens.weight": (config.vocab_size, h), "model.norm.weight": (h,)}
    if not config.tie_word_embeddings:
        names["lm_head.weight"] = (config.vocab_size, h)
    for layer in range(config.num_hidden_layers):
        p = f"model.layers.{layer}."
        names[p + "input_layernorm.weight"] = names[p + "post_attention_layernorm.weight"] = (h,)
        for part, rows, cols in (("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)):
            names[p + f"self_attn.{part}_proj.weight"] = (rows, cols)
            if attention_bias or (family == "qwen2" and part != "o"):
                names[p + f"self_attn.{part}_proj.bias"] = (rows,)
        if family == "qwen3":
            names[p + "self_attn.q_norm.weight"] = names[p + "self_attn.k_norm.weight"] = (d,)
        if family == "mixtral":
            names[p + "block_sparse_moe.gate.weight"] = (config.num_local_experts, h)
            for e in range(config.num_local_experts):
                for part, shape in (("w1", (inter, h)), ("w2", (h, inter)), ("w3", (inter, h))):
                    names[p + f"block_sparse_moe.experts.{e}.{part}.weight"] = shape
            continue
        for part, rows, cols in (("gate", inter, h), ("up", inter, h), ("down", h, inter)):
            names[p + f"mlp.{part}_proj.weight"] = (rows, cols)
            if getattr(config, "mlp_bias", False):
                names[p + f"mlp.{part}_proj.bias"] = (rows,)
    return names


def build_model(config, weights):
    """transformers' model with `weights`, in float32 on the CPU."""
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager").eval()
    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in weights.items()}
    if config.model_type == "mixtral":  # transformers 5 keeps experts stacked in memory
        for layer in range(config.num_hidden_layers):
            old, new = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
            state[new + "gate.weight"] = state.pop(old + "gate.weight")
            pick = lambda part: [state.pop(f"{old}experts.{e}.{part}.weight")
                                 for e in range(config.num_local_experts)]
            gate, down, up = pick("w1"), pick("w2"), pick("w3")
            state[new + "experts.gate_up_proj"] = torch.stack(
                [torch.cat(pair) for pair in zip(gate, up)])
            state[new + "experts.down_proj"] = torch.stack(down)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def golden_logits(model, prompts):
    with torch.no_grad():
        return [model(torch.tensor([p])).logits[0].float().numpy() for p in prompts]


def write_gguf(path, config, weights):
    """A GGUF file as llama.cpp's converter writes it; returns the weights after quantisation."""
    import gguf
    moe = config.model_type == "mixtral"
    llama_like = config.model_type in ("llama", "mixtral")
    arch = "llama" if llama_like else config.model_type
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(d)
    writer.add_key_length(d)
    writer.add_value_length(d)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_vocab_size(config.vocab_size)
    if moe:
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if rope["rope_type"] == "llama3":
        model = transformers.AutoModelForCausalLM.from_config(config)
        plain = rope["rope_theta"] ** -(np.arange(0, d, 2) / d)
        scaled = model.model.rotary_emb.inv_freq.double().numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    short = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
             "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "block_sparse_moe.gate": "ffn_gate_inp"}
    globals_ = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
                "model.norm.weight": "output_norm.weight"}
    used, stacks = {}, {}

    def add(name, value):
        kind = gguf.GGMLQuantizationType.F32
        if value.ndim > 1 and value.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
        elif value.ndim > 1:
            kind = gguf.GGMLQuantizationType.F16
        packed = gguf.quants.quantize(value, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        return gguf.quants.dequantize(packed, kind).astype(np.float32).reshape(value.shape)

    for name, value in weights.items():
        if name in globals_:
            used[name] = add(globals_[name], value)
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        if ".experts." in rest:
            _, _, e, part, _ = rest.split(".")
            stacks.setdefault((layer, part), {})[int(e)] = value
            continue
        module, suffix = rest.rsplit(".", 1)
        heads = {"self_attn.q_proj": config.num_attention_heads,
                 "self_attn.k_proj": config.num_key_value_heads}.get(module)
        out = value
        if llama_like and heads:  # pairs (i, i + d/2) become neighbours
            out = value.reshape(heads, 2, d // 2, -1).swapaxes(1, 2).reshape(value.shape)
        out = add(f"blk.{layer}.{short[module]}.{suffix}", np.ascontiguousarray(out))
        if llama_like and heads:
            out = out.reshape(heads, d // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
        used[name] = out
    for (layer, part), experts in stacks.items():
        name = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}[part]
        stacked = np.stack([experts[e] for e in range(len(experts))])
        values = add(f"blk.{layer}.{name}.weight", stacked)
        for e in range(len(experts)):
            used[f"model.layers.{layer}.block_sparse_moe.experts.{e}.{part}.weight"] = values[e]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return used


def make_case(name, out):
    fields, as_v5, files = CASES[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    config = transformers.AutoConfig.from_pretrained(folder)
    if as_v5:
        config.save_pretrained(folder)
    weights = {n: draw(n, s, SETTINGS) for n, s in checkpoint_tensors(config).items()}
    if files == "gguf":
        weights = write_gguf(folder / "model.gguf", config, weights)
    elif files:
        dtype = getattr(torch, fields["torch_dtype"])
        weights = {n: torch.from_numpy(w).to(dtype).float().numpy() for n, w in weights.items()}
    model = build_model(config, weights)
    if files in ("safetensors", "sharded"):
        shutil.copy(folder / "config.json", folder / "config.kept")
        model.to(dtype).save_pretrained(
            folder, max_shard_size="30KB" if files == "sharded" else "1GB")
        (folder / "config.kept").rename(folder / "config.json")
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = build_model(config, weights)
    rng = np.random.default_rng(7)
    prompts = [rng.integers(0, config.vocab_size, n).tolist() for n in PROMPT_LENGTHS]
    logits = golden_logits(model, prompts)
    (folder / "golden.f32").write_bytes(b"".join(l.astype("<f4").tobytes() for l in logits))
    golden = {"transformers": transformers.__version__, **SETTINGS, "prompts": prompts}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(f"{name}: logits deviate {np.concatenate(logits).std():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/models"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    parser.add_argument("cases", nargs="*", help="all when none is named")
    args = parser.parse_args()
    torch.manual_seed(0)
    for name in args.cases or CASES:
        make_case(name, args.out)


if __name__ == "__main__":
    main()

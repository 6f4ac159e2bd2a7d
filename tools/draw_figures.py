#!/usr/bin/env python3
"""Draws the README's figures: docs/figures/system.svg, and docs/figures/pipeline.svg from a real spec.

Usage: tools/draw_figures.py [SPEC]        (default: specs/llama.tp2.overlap3.json)

The pipeline figure simulates one period of the spec in steady state: each nano-op starts when its lane is free and the
ops before it on its own half are done. Durations are nominal (a row's cost per op, below); what is real is the order,
the lanes, the halves and the half-layer skew.
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FONT = 'font-family="Helvetica, Arial, sans-serif"'
COLOURS = {"compute": "#4c78a8", "memory": "#f58518", "network": "#54a24b"}
# Nominal time of one op on half a batch: the proportions of a Llama-3-8B layer on one GPU.
COST = {"attn_norm": 0.5, "qkv": 2, "rope_append": 0.5, "attn_decode": 6, "attn_prefill": 1.5, "o": 1.5,
        "all_reduce_o": 2, "ffn_norm": 0.5, "gate_up": 7, "silu_mul": 0.7, "down": 3.5, "all_reduce_down": 2}


def resource(op):
    if op.startswith("all_"):
        return "network"
    return "memory" if op.startswith("attn_") and op != "attn_norm" else "compute"


def simulate(spec, layers=4):
    """List of (op, half, lane, layer, start, end): lanes are in order, a half's ops are a chain."""
    free, chain, steps = {}, {}, []
    for period in range(-1, layers):
        for nano in spec["order"]:
            layer = period + nano.get("stage", 0)
            if not 0 <= layer < layers:
                continue
            half, lane = tuple(nano["rows"]), nano["lane"]
            start = max(free.get(lane, 0), chain.get(half, 0))
            end = start + COST.get(nano["op"], 1)
            free[lane] = chain[half] = end
            steps.append((nano["op"], half, lane, layer, start, end))
    return steps


def text(x, y, content, size=13, anchor="middle", colour="#222", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}" font-weight="{weight}">{content}</text>')


def svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}"><rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>\n")


def draw_pipeline(spec):
    steps = simulate(spec)
    # The middle two layers: steady state.
    begin = min(s[4] for s in steps if s[3] == 1)
    end = max(s[5] for s in steps if s[3] == 2)
    lanes = sorted({s[2] for s in steps})
    left, top, row, scale = 120, 60, 70, 1000 / (end - begin)
    parts = [text(left + 500, 30, f'{spec["name"]}: two halves of the batch, half a layer apart', 16, weight="bold")]
    for i, lane in enumerate(lanes):
        kinds = {resource(s[0]) for s in steps if s[2] == lane}
        parts.append(text(left - 12, top + row * i + 32, f"lane {lane}", 13, "end", weight="bold"))
        parts.append(text(left - 12, top + row * i + 48, ", ".join(sorted(kinds)), 11, "end", "#666"))
    for op, half, lane, layer, start, stop in steps:
        if stop <= begin or start >= end:
            continue
        x = left + (max(start, begin) - begin) * scale
        width = (min(stop, end) - max(start, begin)) * scale
        y = top + row * lanes.index(lane) + 8
        opacity = 1.0 if half[0] == 0 else 0.62
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{row - 22}" rx="3" stroke="white" '
                     f'fill="{COLOURS[resource(op)]}" fill-opacity="{opacity}"/>')
        if width > 62:
            parts.append(text(x + width / 2, y + 22, op.replace("attn_", "attn "), 11, colour="white"))
            parts.append(text(x + width / 2, y + 38, f'{"A" if half[0] == 0 else "B"}, layer {layer}', 10, colour="white"))
    y = top + row * len(lanes) + 22
    for i, (kind, colour) in enumerate(COLOURS.items()):
        parts.append(f'<rect x="{left + 170 * i}" y="{y - 11}" width="14" height="14" fill="{colour}"/>')
        parts.append(text(left + 170 * i + 20, y, f"{kind}-bound", 12, "start"))
    parts.append(text(left + 1000, y, "dark: half A, light: half B; time runs right", 12, "end", "#666"))
    return svg(left + 1020, y + 20, parts)


def box(x, y, width, height, title, lines, fill):
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="#888"/>',
             text(x + width / 2, y + 22, title, 14, weight="bold")]
    parts += [text(x + width / 2, y + 42 + 17 * i, line, 12, colour="#333") for i, line in enumerate(lines)]
    return "".join(parts)


def arrow(x1, y1, x2, y2, label=""):
    part = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#555" stroke-width="2" marker-end="url(#head)"/>'
    return part + (text((x1 + x2) / 2 + (34 if x1 == x2 else 0), (y1 + y2) / 2 - 6, label, 11, "middle", "#555") if label else "")


def draw_system():
    parts = ['<defs><marker id="head" markerUnits="userSpaceOnUse" markerWidth="10" markerHeight="8" refX="9" refY="4" orient="auto">'
             '<path d="M0,0 L10,4 L0,8 z" fill="#555"/></marker></defs>',
             text(480, 28, "From a request to tokens, and from a model to a pipeline", 16, weight="bold"),
             box(20, 50, 200, 96, "api, text", ["OpenAI bodies, chat templates", "tokenizers, stop strings", "streams of text"], "#eef3fa"),
             box(290, 50, 250, 96, "engine", ["continuous batching, chunked prefill", "paged KV cache, preemption", "step i+1 is launched while i runs"], "#eef3fa"),
             box(610, 50, 330, 96, "worker (one per rank)", ["step arrays: tokens, positions, pages", "a plan per bucket of rows", "sampled ids stay on the device"], "#eef3fa"),
             box(20, 220, 200, 96, "model", ["config.json, safetensors, GGUF", "one graph builder per family", "ops declare reads and writes"], "#fdf3e7"),
             box(290, 220, 250, 96, "pipeline", ["spec: cuts, lanes, SMs, order (JSON)", "lower(): every wait is derived", "verify(): proved independently"], "#fdf3e7"),
             box(610, 220, 330, 96, "backend", ["lanes: compute | memory | network", "CPU: threads;  CUDA: streams, events, graphs", "kernels with an SM budget"], "#eaf5ea"),
             arrow(220, 98, 288, 98), arrow(540, 98, 608, 98, "StepBatch"), arrow(220, 268, 288, 268, "OpGraph"),
             arrow(540, 268, 608, 268, "Plan"), arrow(775, 146, 775, 218, "launch"), arrow(608, 128, 542, 128, "ids"),
             arrow(288, 128, 222, 128, "events")]
    return svg(960, 340, parts)


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "specs" / "llama.tp2.overlap3.json"
    figures = ROOT / "docs" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    (figures / "pipeline.svg").write_text(draw_pipeline(json.loads(path.read_text())))
    (figures / "system.svg").write_text(draw_system())


if __name__ == "__main__":
    main()

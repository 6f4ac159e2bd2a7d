#!/usr/bin/env python3
"""The files of deploy/ against the program: a dashboard that asks for what the server exports, a unit that systemd takes.

Usage: deploy_test.py NANOFLOW
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from server_process import Server

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Exported where the device's datasheet or energy meter is known, which a CPU's is not.
GPU_ONLY = {"nanoflow:peak_flops", "nanoflow:energy_joules_total"}
OF_PROMETHEUS = {"instance", "job"}  # labels that a scrape adds
WORDS = {"sum", "avg", "max", "by", "rate", "histogram_quantile", "ignoring", "group_left", "label_values"}


def exported(text):
    """{metric: its label names} of an exposition."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([\w:]+)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found


def asked(expression):
    """Metrics, the labels by which each is selected, and the labels by which results are grouped."""
    rest = re.sub(r"\[[^]]*\]", "", expression)
    groups = set()
    for names in re.findall(r"\b(?:by|ignoring)\s*\(([^)]*)\)", rest):
        groups.update(name.strip() for name in names.split(","))
    rest = re.sub(r"\b(?:by|ignoring)\s*\([^)]*\)", "", rest)
    selected = {}
    for name, labels in re.findall(r"([A-Za-z_:][\w:]*)\{([^}]*)\}", rest):
        selected.setdefault(name, set()).update(re.findall(r"(\w+)\s*=", labels))
    bare = set(re.findall(r"[A-Za-z_:][\w:]*", re.sub(r"[A-Za-z_:][\w:]*\{[^}]*\}", "", rest)))
    assert bare <= WORDS, f"metrics without a selector {bare - WORDS} in {expression}"
    return selected, groups


def check_expressions(dashboard, metrics, source):
    panels = dashboard["panels"]
    seen = set()
    for panel in panels:
        for target in panel["targets"]:
            selected, groups = asked(target["expr"])
            assert selected, f"no metric in {target['expr']}"
            seen |= set(selected)
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend <= groups, f"{panel['title']}: the legend names {legend - groups}"
            for name, labels in selected.items():
                if name in GPU_ONLY:
                    assert f'"{name}"' in source, f"{panel['title']}: {name} is not exported"
                    continue
                assert name in metrics, f"{panel['title']}: {name} is not exported"
                missing = (labels | groups) - metrics[name] - OF_PROMETHEUS
                assert not missing, f"{panel['title']}: {name} has no label {missing}"
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\(([\w:]+), (\w+)\)", variable["query"]).groups()
            assert label in metrics[name] | OF_PROMETHEUS, variable
    assert len(seen) > 15, seen


def check_layout(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels), "ids repeat"
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24, f"{panel['title']} leaves the grid"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{panel['title']} overlaps {other}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", f"{panel['title']}: a fixed data source"


def check_unit(nanoflow):
    path = ROOT / "deploy" / "nanoflow.service"
    text = path.read_text()
    command = re.search(r"^ExecStart=(\S+) (.*)$", text, re.M)
    limit = float(re.search(r"--shutdown-timeout (\d+)", command.group(2)).group(1))
    patience = float(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M).group(1))
    assert patience > limit, "systemd kills the server before its requests have ended"
    options = subprocess.run([nanoflow, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for option in re.findall(r"--[a-z-]+", command.group(2)):
        assert re.search(rf"{option}\b", options), f"{option} is no option"
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        print("systemd-analyze is not installed: the unit is not verified")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "nanoflow.service")
        copy.write_text(text.replace(command.group(1), str(pathlib.Path(nanoflow).resolve())))
        result = subprocess.run([verifier, "verify", "--man=no", copy], capture_output=True, text=True)
        complaints = [line for line in result.stderr.splitlines() if "nanoflow.service" in line]
        assert not complaints, "\n".join(complaints)


def main():
    nanoflow = sys.argv[1]
    dashboard = json.loads((ROOT / "deploy/grafana/nanoflow.json").read_text())
    check_layout(dashboard)
    check_unit(nanoflow)
    with Server(nanoflow, "--timed-step-interval", "2") as server:
        assert server.post("/v1/completions", {"prompt": "Hello", "max_tokens": 8}).status == 200
        metrics = exported(server.get("/metrics").body.decode())
        check_expressions(dashboard, metrics, (ROOT / "src/server/metrics.cc").read_text())
        assert server.stop() == 0


if __name__ == "__main__":
    main()

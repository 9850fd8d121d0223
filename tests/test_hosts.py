"""Two processes with two devices each against one process with four devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 16,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "hallucination": {"max_iterations": 3, "threshold": (0.5, 0.9)},
        "stage1": {"epochs": 0},
        "stage2": {"epochs": 2, "backbone_lr": 0.02, "head_lr": 0.02},
        "evaluation": {"batch_size": 32},
        "log_every": 1,
    })
"""

WORKER = """
import json, sys
from pathlib import Path
import jax

config_file, workdir, process, processes, port = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 4 // int(processes))
jax.config.update("jax_disable_most_optimizations", True)
if int(processes) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(process))

from blt_jax.config import load_config
from blt_jax.training.mesh import put_replicated
from blt_jax.training.run import train
from blt_jax.training.setup import evaluate_split
from blt_jax.training.stages import make_plan, make_stage

setup = train(load_config(config_file), Path(workdir))
batches = make_stage(setup, "stage2", make_plan(setup, "stage2")).batches(0)
records = [[b["record"].tolist(), b["seed_record"].tolist()] for b in batches]
Path(workdir, f"records{process}.json").write_text(json.dumps(records))
model = put_replicated(setup.model.init(jax.random.key(0)), setup.mesh)
predictions = {}
for n in (1, 31, 33):
    evaluation = evaluate_split(setup, setup.dataset.test.head(n), *model)
    predictions[str(n)] = evaluation.predictions.tolist()
Path(workdir, f"predictions{process}.json").write_text(json.dumps(predictions))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, processes):
    (folder / "config.py").write_text(CONFIG)
    workdir = folder / f"{processes}"
    workdir.mkdir()
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    port = free_port()
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                *map(str, (folder / "config.py", workdir, process, processes, port)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [worker.communicate(timeout=280)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # jax.distributed swallows SIGTERM
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-3000:]
    return workdir


@pytest.mark.slow
def test_two_hosts_train_and_evaluate_as_one(tmp_path: Path):
    alone, together = start(tmp_path, 1), start(tmp_path, 2)

    def losses(workdir):
        lines = (workdir / "stage2" / "metrics.jsonl").read_text().splitlines()
        rows = [r for r in map(json.loads, lines) if r["kind"] == "train"]
        return rows

    mine, theirs = losses(alone), losses(together)
    assert len(mine) == len(theirs) == mine[-1]["total_steps"]
    for a, b in zip(mine, theirs, strict=True):
        assert a["hallucinated"] == b["hallucinated"]
    assert sum(row["hallucinated"] for row in mine) > 0
    np.testing.assert_allclose(
        [row["loss"] for row in mine[:5]],
        [row["loss"] for row in theirs[:5]],
        rtol=1e-4,
    )
    # The hosts' parts of each step make up the batch and the slots of one host.
    whole = json.loads((alone / "records0.json").read_text())
    parts = [
        json.loads((together / f"records{process}.json").read_text())
        for process in range(2)
    ]
    assert len(whole) == mine[-1]["total_steps"]
    for step, (records, seeds) in enumerate(whole):
        for number, expected in enumerate((records, seeds)):
            assert parts[0][step][number] + parts[1][step][number] == expected
    # Every host saw every answer, whether its own share had images or only padding.
    expected = json.loads((alone / "predictions0.json").read_text())
    for process in range(2):
        found = json.loads((together / f"predictions{process}.json").read_text())
        assert {n: len(p) for n, p in found.items()} == {"1": 1, "31": 31, "33": 33}
        assert found == expected

"""Captions by a Ray cluster of two nodes on this machine, one of which is killed in the middle: every picture is captioned
once. Arguments: the program, a folder of pictures, the examples' folder, a folder for what is written."""

import collections
import glob
import os
import sys
import threading
import time

program, pictures, examples, out = sys.argv[1:]
sys.path.insert(0, examples)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["PYTHONPATH"] = os.pathsep.join([examples, os.environ.get("PYTHONPATH", "")])

import pyarrow.parquet
import ray
from ray.cluster_utils import Cluster

import ray_captions

cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 2, "object_store_memory": 150 << 20, "include_dashboard": False},
)
other = cluster.add_node(num_cpus=2, object_store_memory=150 << 20)
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()

started = time.time()
killed = []


def workers():
    """How many worker processes run below each node's raylet."""
    return int(os.popen("pgrep -fc '^%s caption - --json'" % program).read() or 0)


def kill():
    # Both nodes have a worker at work, and some captions are written.
    while workers() < 2 or not glob.glob(os.path.join(out, "*.parquet")):
        if time.time() - started > 400:
            return
        time.sleep(0.2)
    cluster.remove_node(other, allow_graceful=False)
    killed.append(time.time() - started)


thread = threading.Thread(target=kill, daemon=True)
thread.start()
command = [program, "caption", "-", "--json", "--batch-size", "2"]
data = ray_captions.captions([pictures], command, workers=2, batch_size=4)
data.write_parquet(out)
thread.join(timeout=5)

rows = collections.Counter()
for file in glob.glob(os.path.join(out, "*.parquet")):
    for row in pyarrow.parquet.read_table(file).to_pylist():
        assert row["text"] and row["error"] is None, row
        rows[os.path.basename(row["path"])] += 1
names = sorted(os.listdir(pictures))
missing, twice = [n for n in names if not rows[n]], [n for n in names if rows[n] > 1]
print(f"{len(names)} pictures, {len(missing)} missing, {len(twice)} twice; node killed after {killed} s")
assert killed, "no node was killed in the middle"
assert not missing and not twice and len(rows) == len(names), (missing, twice)
ray.shutdown()
cluster.shutdown()

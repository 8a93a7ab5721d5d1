#!/usr/bin/env python3
"""Captions of many pictures by many machines.

Ray Data reads the pictures, a pool of actors that each hold one `qllama caption - --json` worker captions them, and
Parquet files take what they say: a row a picture with `path`, `text`, `ids`, and `error` and `code` of those that failed.
What a machine that dies had at work is done again by others.

    pip install 'ray[data]'
    python ray_captions.py photos captions --workers 8 --gpus 1 -- --model InternVL-14B-224px --num-beams 5
    python ray_captions.py 'shards/0000.tar' captions --workers 2

On a cluster: `ray start --head` on one machine, `ray start --address HEAD:6379` on the others, and this script on any of
them with RAY_ADDRESS=auto. Input and output lie where all of them can read and write: a shared folder, or s3://.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import threading

import ray

PICTURES = ["png", "jpg", "jpeg", "jfif", "webp"]


class Captioner:
    """An actor with a worker process of its own."""

    def __init__(self, command):
        gpus = ray.get_gpu_ids()
        adapter = ["--adapter", str(gpus[0])] if gpus else []
        self.worker = subprocess.Popen(command + adapter, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, batch):
        """A batch of rows with `path` and `bytes` to one with captions, in the same order."""
        count = len(batch["path"])
        # Lines are written beside the reading: either pipe may be full.
        writer = threading.Thread(target=self.write, args=(batch["bytes"],))
        writer.start()
        answers = [None] * count
        for _ in range(count):
            line = self.worker.stdout.readline()
            if not line:
                raise RuntimeError(f"the worker ended with status {self.worker.wait()}")
            answer = json.loads(line)
            answers[answer["id"]] = answer
        writer.join()
        return {
            "path": list(batch["path"]),
            "text": [a.get("text") for a in answers],
            "ids": [a.get("ids", []) for a in answers],
            "error": [a.get("error") for a in answers],
            "code": [a.get("code") for a in answers],
        }

    def write(self, pictures):
        for number, picture in enumerate(pictures):
            line = json.dumps({"id": number, "base64": base64.b64encode(picture).decode()})
            try:
                self.worker.stdin.write(line.encode() + b"\n")
            except BrokenPipeError:
                return  # The reader tells of it.
        self.worker.stdin.flush()


def of_sample(sample):
    """The pictures of a WebDataset sample, a row each."""
    for ending, content in sample.items():
        if ending.rsplit(".")[-1].lower() in PICTURES:
            yield {"path": f"{sample['__key__']}.{ending}", "bytes": content}


def captions(paths, command, workers=1, gpus=0, batch_size=32):
    """A dataset of captions of the pictures in folders, files or .tar shards."""
    if all(path.endswith(".tar") for path in paths):
        pictures = ray.data.read_webdataset(paths, decoder=False).flat_map(lambda s: list(of_sample(s)))
    else:
        pictures = ray.data.read_binary_files(paths, include_paths=True, file_extensions=PICTURES)
    return pictures.map_batches(
        Captioner,
        fn_constructor_args=(command,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=batch_size,
        num_gpus=gpus,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="folders or pictures, or .tar shards")
    parser.add_argument("output", help="the folder for Parquet files")
    parser.add_argument("--workers", type=int, default=1, help="actors in all; each has a worker [1]")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs that each worker has for itself [0]")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures that a worker is given at a time [32]")
    parser.add_argument("--qllama", default="qllama", help="the program, where it is not on the PATH")
    # What stands behind -- is for `qllama caption`.
    own = sys.argv[1:]
    at = own.index("--") if "--" in own else len(own)
    args = parser.parse_args(own[:at])
    command = [args.qllama, "caption", "-", "--json", *own[at + 1 :]]
    ray.init(ignore_reinit_error=True, address=os.environ.get("RAY_ADDRESS"))
    captions(args.paths, command, args.workers, args.gpus, args.batch_size).write_parquet(args.output)


if __name__ == "__main__":
    main()

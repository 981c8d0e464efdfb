"""Time and peak memory of a TED evaluation against its floor and against the authors' protocol, in one run.

    python benchmarks/evaluate_speed.py --encoder smollm2=SmolLM2-135M-Instruct.gguf --ted TED-6k.json
    python benchmarks/evaluate_speed.py --encoder FOLDER --ted sample --repeats 1        # tiny

Arms, each a process of its own per repeat, in turn (so that a drift of the machine's speed hits all alike):
    floor      one bare pass of the trunk over the unique texts, batched as in the evaluation, and one aggregator
    one        `score_encoder` with norm_avg: fused features, mean pooling beside the aggregator, cache on disk
    four       `score_encoder` with last, penultimate, norm_avg and learned
    authors    captions encoded again for every question, batches of 24 in file order, all layers stacked (one
               repeat only: it takes ten times as long)
Loading is not timed. The aggregators are untrained: speed does not depend on their weights.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import transformers

from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.records import caption_text
from granted.encoding.features import new_aggregator
from granted.encoding.loading import EncoderOptions, load_encoder
from granted.eval_metric.benchmark import TrainedAggregator, score_encoder
from granted.eval_metric.evaluation import dataset_description
from granted.modeling_text_input import length_sorted_batches
from granted.utils.files import write_json


ARMS = ("floor", "one", "four", "authors")
BUDGET = 8192


@torch.no_grad()
def run_arm(arm: str, encoder_spec: str, ted: str) -> dict:
    """Seconds, peak memory and tokens of one arm, once."""
    transformers.utils.logging.disable_progress_bar()
    records, info = read_ted(ted)
    name, encoder = load_encoder(encoder_spec, EncoderOptions(dtype="bfloat16"))
    features = {"four": ["last", "penultimate", "norm_avg", "learned"], "floor": ["last"]}.get(arm, ["norm_avg"])
    fingerprint = encoder.fingerprint()
    heads = [TrainedAggregator(new_aggregator(f, encoder, name, fingerprint, seed=0).eval(), 0) for f in features]
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if arm == "floor":
        tokens = floor(encoder, heads[0].aggregator, records)
    elif arm == "authors":
        tokens = authors_protocol(encoder, heads[0].aggregator, records)
    else:
        with tempfile.TemporaryDirectory() as cache:
            dataset = dataset_description(records, info)
            results = score_encoder(encoder, name, heads, records, dataset, cache, show_progress=False)
        tokens = results[0].provenance["tokens"]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1024, "loaded_mb": loaded / 1024, "tokens": tokens}


def floor(encoder, aggregator, records) -> int:
    """The least that a score needs: every unique text once through the trunk and one aggregator."""
    texts = list(dict.fromkeys([caption_text(r) for r in records] + [s for r in records for s in r["statements"]]))
    token_ids = encoder.tokenize(texts)
    for batch in length_sorted_batches([len(ids) for ids in token_ids], BUDGET):
        input_ids, mask = encoder.pad([token_ids[i] for i in batch])
        hidden = encoder.text_trunk(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        aggregator(hidden.float(), attention_mask=mask)  # in fp32, as it is scored
    return sum(len(ids) for ids in token_ids)


def authors_protocol(encoder, aggregator, records) -> int:
    """Every instance by itself: its caption and its statements in file order, 24 texts a batch, layers stacked."""
    texts = [text for r in records for text in (caption_text(r), *r["statements"])]
    token_ids = encoder.tokenize(texts)
    for start in range(0, len(texts), 24):
        input_ids, mask = encoder.pad(token_ids[start : start + 24])
        outputs = encoder.text_trunk(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
        stack = torch.stack(outputs.hidden_states[1:], dim=1)  # (B, L, N, D)
        with torch.autocast("cpu", torch.bfloat16):
            aggregator(stack, attention_mask=mask)
    return sum(len(ids) for ids in token_ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder, Hub id or GGUF file; NAME=PATH names it")
    parser.add_argument("--ted", default="sample", help="TED-6k.json, an exported folder, or the word sample")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("evaluate_speed.json"))
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        sys.stdout.write(json.dumps(run_arm(options.arm, options.encoder, options.ted)) + "\n")
        return

    runs: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for repeat in range(options.repeats):
        for arm in ARMS if repeat == 0 else ARMS[:-1]:
            command = [sys.executable, __file__, "--arm", arm, "--encoder", options.encoder, "--ted", options.ted]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[arm].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stdout.write(f"{repeat} {arm}: {runs[arm][-1]['seconds']:.1f} s, {runs[arm][-1]['peak_mb']:.0f} MB\n")
    seconds = {arm: median(run["seconds"] for run in arm_runs) for arm, arm_runs in runs.items()}
    compared = (("one", "floor"), ("four", "one"), ("authors", "one"))
    ratios = {f"{a} / {b}": seconds[a] / seconds[b] for a, b in compared}
    records, info = read_ted(options.ted)
    summary = {
        "encoder": options.encoder.partition("=")[0] if "=" in options.encoder else Path(options.encoder).name,
        "dataset": {"config": info["config"], "fingerprint": info["fingerprint"], "instances": len(records)},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_mb": {arm: median(run["peak_mb"] for run in arm_runs) for arm, arm_runs in runs.items()},
        "loaded_mb": {arm: median(run["loaded_mb"] for run in arm_runs) for arm, arm_runs in runs.items()},
        "tokens": {arm: arm_runs[0]["tokens"] for arm, arm_runs in runs.items()},
        "ratios_of_medians": ratios,
        "runs": runs,
    }
    write_json(options.output, summary)
    sys.stdout.write(json.dumps(summary["ratios_of_medians"], indent=2) + f"\nwrote {options.output}\n")


if __name__ == "__main__":
    main()

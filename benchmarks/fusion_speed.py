"""Time of streamed fusion against the bare trunk and against stacking all layers, alternated in one process.

    python benchmarks/fusion_speed.py --encoder smollm2=SmolLM2-135M-Instruct.gguf
    python benchmarks/fusion_speed.py --encoder FOLDER --batch 2 --tokens 16 --repeats 2     # tiny

Arms: `bare` (the trunk's last layer), `norm_avg` (one fusion), `six` (last, penultimate, avg, norm_avg, learned, the
first layer from one pass) and `stacked` (all hidden states, stacked, normalised, averaged).
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

from granted.encoding.loading import EncoderOptions, load_encoder
from granted.modeling_layer_fusion import LayerFusion
from granted.utils.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder, Hub id or GGUF file; NAME=PATH names it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("fusion_speed.json"))
    options = parser.parse_args()

    name, encoder = load_encoder(options.encoder, EncoderOptions(dtype=options.dtype))
    layers = encoder.config.num_hidden_layers
    single = [LayerFusion("single", layers, layer_index=i) for i in (-1, -2, 0)]
    norm_avg, *others = (LayerFusion(kind, layers) for kind in ("norm_avg", "avg", "learned"))
    ids = torch.randint(
        10, 1000, (options.batch, options.tokens), generator=torch.Generator().manual_seed(0)
    )  # (B, N)
    mask = torch.ones_like(ids)  # (B, N)

    def stacked():
        states = encoder.text_trunk(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return norm_avg(torch.stack(states[1:], dim=1))  # (B, N, D)

    arms = {
        "bare": lambda: encoder.text_trunk(input_ids=ids, attention_mask=mask, use_cache=False),
        "norm_avg": lambda: encoder.fuse(ids, mask, [norm_avg]),
        "six": lambda: encoder.fuse(ids, mask, [norm_avg, *others, *single]),
        "stacked": stacked,
    }
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    with torch.no_grad():
        for repeat in range(options.repeats + 1):
            for arm, run in arms.items():
                started = time.perf_counter()
                run()
                if repeat:  # the first round warms up
                    seconds[arm].append(time.perf_counter() - started)
    summary = {
        "encoder": name,
        "dtype": options.dtype,
        "shape": [options.batch, options.tokens],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": {arm: median(values) for arm, values in seconds.items()},
        "ratio_to_bare": {
            arm: median(one / bare for one, bare in zip(values, seconds["bare"])) for arm, values in seconds.items()
        },
    }
    write_json(options.output, summary)
    sys.stdout.write("".join(f"{arm}: {ratio:.3f} x bare\n" for arm, ratio in summary["ratio_to_bare"].items()))


if __name__ == "__main__":
    main()

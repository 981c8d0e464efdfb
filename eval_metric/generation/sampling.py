"""Images and videos from a diffusers pipeline, a prompt each, to be looked at and scored.

    pipeline = load_pipeline("run/pipeline", trust_remote_code=True)
    sample_prompts(pipeline, read_prompts("prompts.txt"), "images", SamplingSettings(seed=0, steps=50))

    granted generate run/pipeline --prompts prompts.txt --output images --trust-remote-code

Any text-to-image or text-to-video pipeline will do, stock ones too. The noise of an image comes from the seed of the
run, the id of its prompt and its number alone, and batches are cut the same way every time, so a run that was killed
goes on to the very images that it would have made. Videos are folders of PNG frames: what is read or judged later are
the very pixels that were made. Under `accelerate launch` the batches are shared out over the processes.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from accelerate import PartialState
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from granted.encoding.loading import choose_device, device_name
from granted.eval_metric.generation.manifest import MANIFEST, RECORD, image_grid
from granted.eval_metric.generation.settings import SamplingSettings
from granted.modeling_fingerprint import weights_hash
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, read_json, remove_abandoned, write_json
from granted.utils.versions import library_versions


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What the settings are called by diffusers' pipelines.
ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative_prompt": "negative_prompt",
    "height": "height",
    "width": "width",
    "frames": "num_frames",
}


def load_pipeline(
    name_or_path: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    offload: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> DiffusionPipeline:
    """Load a pipeline onto its device.

    Args:
        name_or_path (`str`): a folder or Hub id, as `DiffusionPipeline.from_pretrained` takes it.
        dtype (`str`, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        device (`str`, defaults to `"auto"`): such as `"cuda:1"`; this process's accelerator by default.
        device_map (`str`, *optional*): such as `"balanced"`: spreads the parts over several devices.
        offload (`bool`, defaults to `False`): keep only the part that works on the accelerator.
        revision (`str`, *optional*): branch, tag or commit of a pipeline on the Hub.
        trust_remote_code (`bool`, defaults to `False`): let code run that ships with the pipeline. That code can do
            whatever you can: read it first.

    Raises:
        InputError: it is no pipeline in safetensors, or needs its own code and may not run it, or no such device.
    """
    if dtype not in DTYPES:
        raise InputError(f"got dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if device_map is not None and (device != "auto" or offload):
        raise InputError(f"got device_map {device_map} with a device or offload, expected one of them: leave one out")
    place = choose_device(device)
    hint = "check the path" + ("" if trust_remote_code else ", or allow its own code by --trust-remote-code")
    loading = {"dtype": DTYPES[dtype], "revision": revision, "use_safetensors": True}
    with refusing(name_or_path, f"a pipeline of diffusers in safetensors: {hint}"):
        parts = {} if device_map else _parts_of_transformers(name_or_path, **loading)
        pipeline = DiffusionPipeline.from_pretrained(
            name_or_path, device_map=device_map, trust_remote_code=trust_remote_code, **loading, **parts
        )
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and not device_map:
            _check_whole(name_or_path, name, [key for key, weight in part.named_parameters() if weight.is_meta])
    if offload and place.type != "cpu":
        pipeline.enable_model_cpu_offload(device=place)
    elif device_map is None:
        pipeline.to(place)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _parts_of_transformers(name_or_path: str, **loading: Any) -> dict[str, PreTrainedModel]:
    """The parts that transformers loads: it would fill weights that a folder lacks with random numbers and go on."""
    parts = {}
    for name, value in DiffusionPipeline.load_config(name_or_path, revision=loading["revision"]).items():
        library, kind = value if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
        kind = getattr(transformers, kind) if library == "transformers" else None
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            parts[name], found = kind.from_pretrained(
                name_or_path, subfolder=name, output_loading_info=True, **loading
            )
            _check_whole(name_or_path, name, found["missing_keys"])
    return parts


def _check_whole(pipeline: str, part: str, missing: Collection[str]) -> None:
    if missing:
        raise InputError(f"got {pipeline}, whose {part} lacks {min(missing)}, expected all weights: fetch it again")


def sample_prompts(
    pipeline: DiffusionPipeline,
    prompts: Sequence[Mapping[str, Any]],
    output: str | os.PathLike,
    settings: SamplingSettings | None = None,
    *,
    name: str = "",
) -> list[dict[str, Any]]:
    """Make the images of all prompts; those that are there are not made again.

    Args:
        pipeline (`DiffusionPipeline`): text-to-image or text-to-video.
        prompts (`list[dict]`): of [`read_prompts`].
        output (`str`): gets `images` or `videos`, `generation.json` and, when all are made, `manifest.jsonl`
            and `grid.png`.
        settings ([`SamplingSettings`], *optional*): the defaults, if not given.
        name (`str`, *optional*): what the pipeline was loaded from, for the record.

    Returns:
        `list[dict]`: the rows of the manifest, see `eval_metric/generation/manifest.py`.

    Raises:
        InputError: the pipeline does not take a setting, the folder holds other images, or images come out as NaN.
    """
    settings, output, state = settings or SamplingSettings(), Path(output), PartialState()
    if not prompts:
        raise InputError("got no prompt, expected at least one: add some")
    arguments = _arguments(pipeline, settings)
    record = _record(pipeline, prompts, settings, arguments, name)
    fresh = _check_folder(output, record)
    for kind in ("images", "videos"):  # if all are made, nothing is written there that would do it
        remove_abandoned(output / kind)
    items = [(row, number) for row in prompts for number in range(settings.images_per_prompt)]
    batches = [
        range(start, min(start + settings.batch_size, len(items)))
        for start in range(0, len(items), settings.batch_size)
    ]
    todo = [batch for batch in batches if not _made(output, items, batch)][state.process_index :: state.num_processes]
    silent = not (todo and state.is_main_process)
    with tqdm(total=len(todo), desc="generating", unit="batch", disable=silent) as bar:
        begun = _generate(pipeline, [items[i] for i in todo[0]], settings, arguments) if todo else []
        if fresh and state.is_main_process:  # only now: what fails at once leaves nothing behind
            write_json(output / RECORD, record)
        state.wait_for_everyone()
        for batch in todo:
            made = begun if batch is todo[0] else _generate(pipeline, [items[i] for i in batch], settings, arguments)
            for i, values in zip(batch, made):
                _save(values, output, i)
            bar.update()
    state.wait_for_everyone()
    rows = [_row(output, items[i], i, settings, record["run"]) for i in range(len(items))]
    if state.is_main_process:
        with atomic_path(output / MANIFEST) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        image_grid(rows, output, output / "grid.png")
    state.wait_for_everyone()
    return rows


def seed_of(seed: int, prompt_id: str, number: int = 0) -> int:
    """The seed of one image: it depends on nothing but the run's seed, the prompt's id and the image's number."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{number}".encode()).digest()[:8], "big") >> 1


def _arguments(pipeline: DiffusionPipeline, settings: SamplingSettings) -> dict[str, Any]:
    """The settings as arguments of the pipeline, with its own defaults for what is not set."""
    taken = inspect.signature(pipeline.__call__).parameters
    kind = type(pipeline).__name__
    for needed in ("prompt", "generator", "output_type"):
        if needed not in taken:
            raise InputError(f"got {kind}, which takes no {needed}, expected one that makes images from prompts")
    arguments = {}
    for setting, argument in ARGUMENTS.items():
        value = getattr(settings, setting)
        if value is None and argument in taken:
            arguments[argument] = taken[argument].default
        elif value is not None and argument not in taken:
            raise InputError(f"got {setting} {value!r} for {kind}, which takes no {argument}: leave the setting out")
        elif value is not None:
            arguments[argument] = value
    return arguments


def _record(
    pipeline: DiffusionPipeline,
    prompts: Sequence[Mapping[str, Any]],
    settings: SamplingSettings,
    arguments: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    """What decides the images, and where they come from."""
    identity = {
        "pipeline": _fingerprint(pipeline),
        "prompts": hashlib.sha256(json.dumps(list(prompts), sort_keys=True).encode()).hexdigest(),
        "settings": asdict(settings),
        "arguments": arguments,
    }
    identity = json.loads(json.dumps(identity))  # as it comes back from the file
    origin = {
        "name": name,
        "class": type(pipeline).__name__,
        "device": device_name(pipeline._execution_device),
        "versions": library_versions("granted", "torch", "diffusers", "transformers"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    run = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return {"kind": "granted.generation", "run": run, "identity": identity, "provenance": origin}


def _fingerprint(pipeline: DiffusionPipeline) -> str:
    """Hash of the class, the weights and the configurations of a pipeline, wherever it was loaded from."""
    digest = hashlib.sha256(type(pipeline).__name__.encode())
    own = {name: value for name, value in pipeline.config.items() if name not in pipeline.components}
    digest.update(json.dumps(_lasting(own), sort_keys=True, default=str).encode())
    for name, part in sorted(pipeline.components.items()):
        digest.update(f"{name} {type(part).__name__} ".encode())
        if isinstance(part, torch.nn.Module):
            digest.update(f"{next((p.dtype for p in part.parameters()), None)} {weights_hash(part)}".encode())
        config = getattr(part, "config", None)
        if config is not None:
            values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            digest.update(json.dumps(_lasting(values), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _lasting(value: Any) -> Any:
    """A configuration without what says where it was loaded from."""
    if isinstance(value, Mapping):
        return {str(key): _lasting(inner) for key, inner in value.items() if not str(key).startswith("_")}
    return value


def _images(output: Path) -> list[Path]:
    return [one for kind in ("images", "videos") for one in (output / kind).glob("[0-9]*")]


def _check_folder(output: Path, record: Mapping[str, Any]) -> bool:
    """Whether the folder is new; raises if it holds something else than a part of this run."""
    if (output / RECORD).is_file():
        found = read_json(output / RECORD)
        if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
            raise InputError(f"got {output / RECORD}, which is no record of a run: choose another folder or remove it")
        mine, theirs = (one["identity"] | one["identity"].get("settings", {}) for one in (record, found))
        names = [name for name in mine if name not in ("settings", "arguments") and mine[name] != theirs.get(name)]
        if found.get("run") != record["run"] and _images(output):
            raise InputError(
                f"got {output} with images made otherwise ({', '.join(names) or 'by another release'}), expected "
                "those of this run: choose another folder or remove it"
            )
        return found.get("run") != record["run"]
    if output.exists() and (not output.is_dir() or any(not one.name.startswith(".") for one in output.iterdir())):
        raise InputError(f"got {output}, which holds other files, expected a new or empty folder: choose one")
    return True


def _generate(
    pipeline: DiffusionPipeline,
    items: Sequence[tuple[Mapping[str, Any], int]],
    settings: SamplingSettings,
    arguments: Mapping[str, Any],
) -> list[np.ndarray]:
    """The images (H, W, 3) or videos (F, H, W, 3) of one batch, as bytes."""
    # The generators are on the CPU, so that every device starts from the same noise.
    seeds = [seed_of(settings.seed, row["id"], number) for row, number in items]
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(arguments.get("negative_prompt"), str):
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(items)
    try:
        answer = pipeline(
            prompt=[row["prompt"] for row, _ in items],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            **arguments,
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"got '{reason}' from {type(pipeline).__name__}: change the settings") from error
    media = answer.frames if hasattr(answer, "frames") else answer.images
    for (row, _), values in zip(items, media, strict=True):
        if not np.isfinite(values).all():
            raise InputError(f"got NaN in the image of prompt {row['id']!r}, expected colours: try --dtype float32")
    return [(np.clip(values, 0, 1) * 255).round().astype(np.uint8) for values in media]


def _place(output: Path, number: int, video: bool) -> Path:
    return output / ("videos" if video else "images") / (f"{number:06d}" if video else f"{number:06d}.png")


def _save(values: np.ndarray, output: Path, number: int) -> None:
    """Write one image, or one video as a folder of frames, whole or not at all."""
    with atomic_path(_place(output, number, values.ndim == 4)) as temporary:
        if values.ndim == 3:
            PIL.Image.fromarray(values).save(temporary, format="PNG")
            return
        temporary.mkdir()
        for i, frame in enumerate(values):
            PIL.Image.fromarray(frame).save(temporary / f"{i:04d}.png")


def _made(output: Path, items: Sequence, batch: range) -> bool:
    return all(_place(output, i, False).is_file() or _place(output, i, True).is_dir() for i in batch)


def _row(
    output: Path, item: tuple[Mapping[str, Any], int], number: int, settings: SamplingSettings, run: str
) -> dict[str, Any]:
    """One line of the manifest."""
    prompt, copy = item
    video = _place(output, number, True).is_dir()
    name = prompt["id"] if settings.images_per_prompt == 1 else f"{prompt['id']}/{copy}"
    media = {"media": "video", "fps": settings.fps} if video else {"media": "image"}
    file = _place(output, number, video).relative_to(output).as_posix()
    own = {"id": name, "prompt_id": prompt["id"], "file": file, "seed": seed_of(settings.seed, prompt["id"], copy)}
    return dict(prompt) | own | media | {"run": run}

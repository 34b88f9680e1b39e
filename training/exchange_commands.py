"""Commands that meet other people's models: ``export``, ``wrap`` and ``probe``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from schemas.errors import ConfigurationError

_EMBEDDED = "embedded"
_EXPORT = """Write an adapter so that others load it without this package, with a model card (README.md).
Without --merge: a directory that PEFT's PeftModel.from_pretrained loads; it stays an adapter of ours. With
--merge: the base's weights with the adapter in them, which transformers' from_pretrained loads."""

_WRAP = """Give an adapter that LLaMA-Factory or PEFT wrote (adapter_config.json, adapter_model.safetensors)
the manifest that serving needs, for RealQA's published conversation: image before question, reasons before
scores, whole texts tokenised at once, trimmed decimals, NEAREST to at most 262,144 px before the resize.
What RealQA says of its other attributes has no published wording: they come as free text, in "reasons"."""

_SORT = """RealQA's Table 3: how well a base sorts random numbers of at most two decimals in 1-10, greedily.
accuracy: answers that are the sorted list; recall: numbers of the list that are in the answer;
hallucination: numbers of the answer that were not in the list. The paper does not publish its wording; the
question is ours, so compare with figures of this command first of all."""


def add_export(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``export``."""
    export = add_parser(
        "export", help="write an adapter, or merged weights, for PEFT and transformers", description=_EXPORT
    )
    export.set_defaults(handler=_export)
    export.add_argument("adapter", metavar="ADAPTER", help="directory of an adapter, or 'embedded'")
    export.add_argument("output", type=Path, metavar="OUTPUT", help="where to; new or empty")
    export.add_argument("--merge", action="store_true", help="write merged weights, not the adapter")
    export.add_argument(
        "--base-model", metavar="NAME", help="name or path of the base model (default: as the adapter says)"
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="number format of merged weights (default: the base's)",
    )


def add_wrap(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``wrap``."""
    wrap = add_parser("wrap", help="give an adapter from elsewhere a manifest", description=_WRAP)
    wrap.set_defaults(handler=_wrap)
    wrap.add_argument(
        "adapter", type=Path, metavar="ADAPTER", help="directory that PEFT or LLaMA-Factory wrote"
    )
    wrap.add_argument("output", type=Path, metavar="OUTPUT", help="where to; new or empty")
    wrap.add_argument(
        "--base-model", required=True, metavar="NAME", help="name or path of the base that it was trained on"
    )
    wrap.add_argument(
        "--name", metavar="TEXT", help="what rows call the adapter (default: the folder's name)"
    )
    wrap.add_argument(
        "--template",
        choices=("published_form", "published_prose"),
        default="published_form",
        help='answer by default: "step by step with the regular form", or prose (default: %(default)s)',
    )
    wrap.add_argument(
        "--score-range",
        nargs=2,
        type=float,
        default=(0.0, 10.0),
        metavar=("LOW", "HIGH"),
        help="range of the training data's own labels (default: 0 10)",
    )
    # Written twice, here and in training.wrap: --help must not wait for torch. A test holds them together.
    wrap.add_argument("--min-pixels", type=int, default=200_704, metavar="PX", help="default: %(default)s")
    wrap.add_argument("--max-pixels", type=int, default=401_408, metavar="PX", help="default: %(default)s")


def add_probe(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``probe``."""
    probe = add_parser("probe", help="ask a base model what the papers asked")
    probes = probe.add_subparsers(title="probes", required=True, metavar="PROBE")
    sort = probes.add_parser("sort", help="sort random numbers (RealQA, Table 3)", description=_SORT)
    sort.set_defaults(handler=_sort)
    sort.add_argument("base", metavar="BASE", help="name or path of a Qwen2-VL, or 'embedded'")
    sort.add_argument("--runs", type=int, default=200, metavar="N", help="lists (default: %(default)s)")
    sort.add_argument("--numbers", type=int, default=10, metavar="N", help="in a list (default: %(default)s)")
    sort.add_argument("--seed", type=int, default=0, metavar="N", help="of the lists (default: %(default)s)")
    sort.add_argument("--batch-size", type=int, default=16, metavar="N", help="lists at a time (default: 16)")
    sort.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    sort.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")


def _export(options: argparse.Namespace) -> int:
    problems = _output_problems(options.output)
    if options.dtype is not None and not options.merge:
        problems.append("--dtype: an adapter is exported as it is; only --merge writes another number format")
    if problems:
        raise ConfigurationError(problems)
    from model.backbone import EMBEDDED_ADAPTER
    from training.export import export_adapter

    export_adapter(
        EMBEDDED_ADAPTER if options.adapter == _EMBEDDED else Path(options.adapter),
        options.output,
        merge=options.merge,
        base_model=options.base_model,
        dtype=options.dtype,
    )
    print(f"{'merged weights' if options.merge else 'adapter'} and README.md in {options.output}")
    return 0


def _wrap(options: argparse.Namespace) -> int:
    problems = _output_problems(options.output)
    if not options.score_range[0] < options.score_range[1]:
        problems.append("--score-range: LOW is not below HIGH")
    if not 784 <= options.min_pixels <= options.max_pixels:
        problems.append(
            "--min-pixels, --max-pixels: not 784 (one visual token) or more, the smaller one first"
        )
    if problems:
        raise ConfigurationError(problems)
    from training.wrap import WrapSettings, wrap_adapter

    low, high = options.score_range
    settings = WrapSettings(
        base_model=options.base_model,
        name=options.name or options.adapter.resolve().name,
        template=options.template,
        score_range=(low, high),
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
    )
    manifest = wrap_adapter(options.adapter, options.output, settings)
    print(f"{manifest.name} in {options.output}; vision {manifest.training.vision}")
    return 0


def _sort(options: argparse.Namespace) -> int:
    problems = [
        f"--{name.replace('_', '-')}: {value} is not 1 or more"
        for name in ("runs", "numbers", "batch_size")
        if (value := getattr(options, name)) < 1
    ]
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        problems.append(f"--json: {options.json} is no file in a folder that is there")
    if problems:
        raise ConfigurationError(problems)
    from training.probe import SortingSettings, probe_sorting
    from training.text_files import replace_text

    settings = SortingSettings(
        options.base, options.runs, options.numbers, options.seed, options.device, options.batch_size
    )
    figures = probe_sorting(settings)
    print(figures.to_markdown())
    if options.json is not None:
        replace_text(options.json, figures.to_json())
    return 0


def _output_problems(output: Path) -> list[str]:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return [f"{output} is no empty folder"]
    return []

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import model.images
import model.scorer
from model import buckets, decoding, packed_vision
from model.decisions import Decisions
from model.denormals import flush_denormals
from model.fast_paths import ATTENTION, grouped_attention, has_fast_paths
from model.fp8 import Fp8Linear, reference_product
from model.images import REDUCED_MARGIN
from tests.benchmarks import cuda_paths, paths
from tests.benchmarks.__main__ import main
from tests.benchmarks.bare_scorer import Feeding
from tests.benchmarks.built import Built
from tests.benchmarks.comparing import Bench, Comparison, Optimisation
from tests.benchmarks.host_paths import HOST_PATHS
from tests.benchmarks.model_paths import MODEL_PATHS
from tests.benchmarks.paths import PATHS, PathsPlan, measure_paths
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.swapping import (
    class_forward,
    copied_keys,
    no_fast_paths,
    norms,
    replayed,
    results_of,
    swapped,
    vision_attentions,
)
from tests.model.watching import Tape

CPU = torch.device("cpu")
BY_NAME = {path.name: path for path in PATHS}
ON_CUDA = {
    "graphs": partial(cuda_paths.graphs, recorder=lambda device: Tape()),
    "staging": cuda_paths.staging,
    "fp8": partial(cuda_paths.fp8, product=reference_product),
}
"""What only a CUDA device has, with stand-ins for what is the device's alone."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    built = Built.of("tiny", CPU, torch.float32)
    scorer = built.scorer(None, 9)
    files = jpegs(read_photographs(None, 3), 150, 120)
    images = [scorer.prepare(data) for data in files]
    return Bench(built, scorer, images, files, Feeding(3, 2048, 1, 3), 1)


def state(bench: Bench) -> dict[str, Any]:
    """Everything that a comparison may take away for a while."""
    decoder, scorer = bench.scorer.decoder, bench.scorer
    named = dict(decoder.model.named_modules())
    return {
        "parts": packed_vision._CPU_BYTES == 5_000_000,
        "modules": {name: id(module) for name, module in named.items()},
        "forwards": {name: vars(module).get("forward") for name, module in named.items()},
        "decoder": {name: id(value) for name, value in vars(decoder).items() if name != "_prefix"},
        "scorer": {name: id(value) for name, value in vars(scorer).items()},
        "fast": has_fast_paths(decoder.model),
        "attention": AttentionInterface().get_interface(ATTENTION, None) is grouped_attention,
        "flushing": model.scorer.flush_denormals is flush_denormals,
        "margin": model.images.REDUCED_MARGIN == REDUCED_MARGIN == 2,
        "buckets": decoding.bucket_rows is buckets.bucket_rows,
        "threads": torch.get_num_threads(),
    }


@contextmanager
def compared(compare: Any, bench: Bench) -> Iterator[Comparison]:
    with ExitStack() as stack:
        yield compare(bench, stack)


@pytest.mark.parametrize("path", [*MODEL_PATHS, *HOST_PATHS], ids=lambda path: path.name)
def test_nothing_stays_switched_off(path: Optimisation, bench: Bench) -> None:
    assert path.unfit(bench) is None
    before, decided = state(bench), bench.decide()
    with compared(path.compare, bench) as comparison, comparison.switch():
        comparison.lacking()
    assert state(bench) == before
    assert torch.equal(bench.decide().format_mass, decided.format_mass)


@pytest.mark.parametrize("name", ON_CUDA)
def test_nothing_that_only_cuda_has_stays_switched_off(name: str, bench: Bench) -> None:
    before, decided = state(bench), bench.decide()
    with compared(ON_CUDA[name], bench) as comparison:
        comparison.having()
        with comparison.switch():
            comparison.lacking()
    assert state(bench) == before
    assert torch.equal(bench.decide().format_mass, decided.format_mass)


@pytest.mark.parametrize("path", MODEL_PATHS, ids=lambda path: path.name)
def test_both_sides_do_the_same_work(path: Optimisation, bench: Bench) -> None:
    with compared(path.compare, bench) as comparison:
        one = comparison.having()
        with comparison.switch():
            other = comparison.lacking()
    if isinstance(one, Decisions) and isinstance(other, Decisions):
        one, other = one.format_mass, other.format_mass
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        assert one.std() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    else:
        assert path.name in ("format mass: softmax over the whole vocabulary", "micro-batch")


def test_a_failure_while_something_is_off_puts_it_back(bench: Bench) -> None:
    before = state(bench)
    with pytest.raises(ZeroDivisionError), no_fast_paths(bench.scorer.decoder):
        raise ZeroDivisionError
    assert state(bench) == before


def test_what_is_off_is_off(bench: Bench) -> None:
    decoder = bench.scorer.decoder
    modules: list[nn.Module] = [*vision_attentions(decoder), *norms(decoder)]
    assert len(modules) > 2
    with class_forward(modules):
        assert not any("forward" in vars(module) for module in modules)
    assert all("forward" in vars(module) for module in modules)
    with copied_keys(decoder):
        assert AttentionInterface().get_interface(ATTENTION, None) is sdpa_attention_forward
    with no_fast_paths(decoder):
        assert not has_fast_paths(decoder.model)
        assert not any("forward" in vars(module) for module in decoder.model.modules())


def test_fp8_is_on_and_the_full_format_takes_its_place(bench: Bench) -> None:
    def in_fp8() -> bool:
        tower = bench.scorer.decoder.model.model.language_model
        return any(isinstance(module, Fp8Linear) for module in tower.modules())

    with compared(ON_CUDA["fp8"], bench) as comparison:
        assert in_fp8()
        with comparison.switch():
            assert not in_fp8()
        assert in_fp8()
    assert not in_fp8()


def test_buckets_save_recordings_and_come_back(bench: Bench) -> None:
    before, recorded = state(bench), []
    # Of one, two, three and four: three are padded to four.
    images = [*bench.images, bench.images[0]]
    for exact in (False, True):
        tape = Tape()
        compare = partial(cuda_paths.buckets, recorder=lambda device, tape=tape: tape)
        four = replace(bench, images=images)
        with compared(compare, four) as comparison, comparison.switch() if exact else nullcontext():
            comparison.having()
        recorded.append(tape.recorded)
    assert recorded[0] < recorded[1] == len(images)
    assert state(bench) == before


def test_an_attribute_of_the_class_comes_back() -> None:
    class Thing:
        def word(self) -> str:
            return "own"

    thing = Thing()
    with swapped(thing, "word", lambda: "other"):
        assert thing.word() == "other"
    assert (thing.word(), vars(thing)) == ("own", {})


def test_what_a_method_returned_is_given_again_in_turn_without_a_call() -> None:
    class Thing:
        calls = 0

        def next_one(self, step: int) -> list[int]:
            self.calls += step
            return [self.calls]

    thing = Thing()
    said = results_of(thing, "next_one", lambda: [thing.next_one(2) for _ in range(2)])
    with replayed(thing, "next_one", said):
        given = [thing.next_one(7) for _ in range(3)]
        given[0].append(0)
        assert given == [[2, 0], [4], [2]]
        assert thing.next_one(7) == [4]
    assert (thing.calls, vars(thing), said) == (4, {"calls": 4}, [[2], [4]])


def _plan(**changes: Any) -> PathsPlan:
    small = PathsPlan("tiny", CPU, torch.float32, 9, None, 2, 0.03, 2, runs=3)
    return replace(small, **changes)


def test_every_optimisation_has_a_row_or_a_reason() -> None:
    told: list[str] = []
    figures = measure_paths(_plan(runs=1), told.append)
    assert figures["failed"] == []
    names = [one["optimisation"] for key in ("rows", "left_out") for one in figures[key]]
    assert sorted(names) == sorted(BY_NAME)
    assert len(told) == len(names)
    for row in figures["rows"]:
        assert row["with_ms"] > 0
        assert row["without_ms"] > 0
        assert row["ratio"] == pytest.approx(row["without_ms"] / row["with_ms"], rel=1e-2)
    if not torch.cuda.is_available():
        assert {one["reason"] for one in figures["left_out"]} >= {"needs a CUDA device"}


def test_a_ratio_is_the_median_of_its_turns() -> None:
    (row,) = measure_paths(_plan(), lambda line: None, MODEL_PATHS[:1])["rows"]
    assert len(row["ratios"]) == 3
    assert row["ratio"] == sorted(row["ratios"])[1]


def test_a_row_that_fails_is_told_and_costs_no_other(monkeypatch, capsys, tmp_path) -> None:
    def broken(bench: Bench, stack: ExitStack) -> Comparison:
        raise RuntimeError("out of luck\nat address 7")

    failing = Optimisation("luck", "none", "micro-batch", broken, "a lot")
    chosen = (failing, BY_NAME["micro-batch"], BY_NAME["prefix shared by all rows"])
    monkeypatch.setattr(paths, "measure_paths", partial(measure_paths, paths=chosen))
    file = tmp_path / "figures.json"
    sizes = ["--visual-tokens", "9", "--photographs", "2", "--megapixels", "0.03", "--runs", "1"]
    assert main(["paths", *sizes, "--micro-batch-images", "2", "--json", str(file)]) == 1
    figures = json.loads(file.read_text())["figures"]
    assert figures["failed"] == [{"optimisation": "luck", "reason": "out of luck"}]
    assert [row["optimisation"] for row in figures["rows"]] == [path.name for path in chosen[1:]]
    shown = capsys.readouterr().out
    assert "- FAILED: luck (out of luck)" in shown
    assert main(["table", str(file)]) == 0
    assert capsys.readouterr().out == shown
    assert "| predicted | gave |" in shown
    assert "10.6 → 8.4 ms an image" in shown

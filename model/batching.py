"""Micro-batches by visual tokens: a pure plan, the same for the library and the pipeline."""

from __future__ import annotations

from collections.abc import Sequence


def plan_micro_batches(visual_tokens: Sequence[int], token_budget: int, max_images: int) -> list[list[int]]:
    """Group images so that a micro-batch, padded to its largest image, stays within a budget.

    Images are sorted by size first, largest first: neighbours then waste little padding, and the
    micro-batch that needs the most memory comes first, so that running out of memory shows at once.

    Args:
        visual_tokens: Merged visual tokens of every image.
        token_budget: Most visual tokens of a micro-batch, padding counted. An image larger than the
            budget still gets a micro-batch of its own.
        max_images: Most images of a micro-batch.

    Returns:
        Indices into ``visual_tokens``; every index occurs exactly once. Ties keep their order.
    """
    order = sorted(range(len(visual_tokens)), key=lambda index: -visual_tokens[index])
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else []
        largest = visual_tokens[batch[0]] if batch else 0
        fits = len(batch) < max_images and largest * (len(batch) + 1) <= token_budget
        if batch and fits:
            batch.append(index)
        else:
            batches.append([index])
    return batches

"""An outside judge of the ladders: BRISQUE, which knows nothing of our model and our degradations.

Mittal, Moorthy and Bovik, No-Reference Image Quality Assessment in the Spatial Domain (IEEE TIP 2012): a
support vector machine over 36 statistics of luminance, trained on human opinions of blur, noise and
compression. It sees no colour. Feature code and weights are those of the package ``brisque``, which is
optional: compiling its ``libsvm`` needs a C++ compiler.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Judge = Callable[[Sequence[bytes]], list[float | None]]
"""From encoded pictures to a number each; None for a picture of which the judge has nothing to say."""

BRISQUE_MISSING = "BRISQUE: not installed (pip install 'brisque[opencv-python-headless]')"


def load_brisque() -> Judge | None:
    """BRISQUE as a judge, or None where the package or its OpenCV is not installed.

    Returns:
        From encoded pictures to BRISQUE's number: about 0 to 100, **lower is better**; None for a picture
        of one flat colour, whose statistics are not defined.
    """
    try:
        with warnings.catch_warnings():
            # The package imports a name that SciPy has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            from brisque import BRISQUE
    except ImportError:
        return None

    class Flattening(BRISQUE):
        def scale_features(self, features: Sequence[Any]) -> Any:
            # brisque 0.2.0 mixes numbers with arrays of length one, which NumPy 2 no longer converts.
            return super().scale_features([np.ravel(feature)[0] for feature in features])

    judge = Flattening()

    def score(image: bytes) -> float | None:
        with np.errstate(invalid="ignore"):
            number = float(judge.score(np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))))
        return number if np.isfinite(number) else None

    return lambda images: [score(image) for image in images]

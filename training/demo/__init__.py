"""A small model trained on synthetic degradations of free photographs; knows nothing of human taste."""

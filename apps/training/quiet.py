"""Keeps Lightning's advice out of the way; warnings about the run itself pass."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Advice on settings that this package decides itself.
_KNOWN = (
    r".*does not have many workers.*",
    r".*`IterableDataset` has `__len__` defined.*",
    r".*smaller than the logging interval.*",
    r".*in eval mode at the start of training.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*your dataloader is not resumable.*",
    r".*GPU available but not used.*",
    r".*no `val_dataloader`.*|.*defined a `validation_step` but have no `val_dataloader`.*",
    r".*Trying to infer the `batch_size` from an ambiguous collection.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True\)`.*",
    r".*LeafSpec.*is deprecated.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Inside, Lightning prints no tips, banners or advice; warnings about real trouble are shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _KNOWN:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

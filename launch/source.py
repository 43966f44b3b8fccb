"""The source of block 0's batches: which images a step has, and their views on the block's device.

Owns the joining of order and views; both are keyed on (seed, step), so a batch is the same whenever
and wherever it is drawn. Knows nothing of blocks.

Shapes: B images, C channels, H height, W width.
"""

import torch

from launch.config import RunConfig
from models.arrays import to_unit_range
from models.block import Payload, Source
from models.data import ImageData, batch_indices
from models.view_names import blamed


def make_source(config: RunConfig, data: ImageData, *, device: str) -> Source:
    """Batches by step: two views (2B, C, H, W) on `device`, and labels (B,) on the host.

    Images travel to the device as they are stored, and are scaled and drawn there.
    """

    draw = blamed(data.views, config.views)

    def batch(step: int) -> Payload:
        chosen = batch_indices(len(data.train_labels), config.batch_size, step, seed=config.seed)
        rows = torch.from_numpy(chosen)
        images_BCHW = to_unit_range(data.train_images[rows].to(device))
        views_NCHW = draw(images_BCHW, seed=config.seed, step=step)
        return views_NCHW, data.train_labels[rows]

    return batch

"""The data of a run, as its config names them.

Owns which keys of a config the data depend on.
"""

from dataclasses import replace

from launch.config import RunConfig
from models.data import ImageData, load_data
from models.view_names import choose_views
from runtime.program import Tell, unheard


def load_run_data(config: RunConfig, *, verifies: bool = False, tell: Tell = unheard) -> ImageData:
    """Load a run's data, with the views that it asks for. Raises ValueError.

    `verifies` and `tell` are those of models.data.load_data.
    """
    data = load_data(
        config.data,
        seed=config.seed,
        split=config.split,
        validation=config.validation,
        train_images=config.train_images,
        image_size=config.image_size,
        verifies=verifies,
        tell=tell,
    )
    views = choose_views(config.views, data.views, data.image_shape)
    return data if views is data.views else replace(data, views=views)

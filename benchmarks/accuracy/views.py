"""The views that the CIFAR-10 regime is trained on.

Owns one choice: the least area of a crop is 0.2 of the image, not the 0.08 that SimCLR keeps for 32
pixels a side too, over a thousand epochs (arXiv 2002.05709, B.9). In a short run a crop of 9 by 9
pixels is hard to tell anything by.
"""

from models.simclr_views import SMALL, SimCLRViews

LEAST_AREA = 0.2


def large_crops() -> SimCLRViews:
    """SimCLR's views of small images, each of at least a fifth of its image."""
    return SimCLRViews(crop_area=(LEAST_AREA, 1.0), strength=SMALL.strength, blur_probability=0.0)

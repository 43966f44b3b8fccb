"""How local learning runs: workers, links, keepers and the coordinator. No image, no ResNet."""

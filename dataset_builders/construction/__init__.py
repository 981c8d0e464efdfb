"""From a user's images and videos to a benchmark, pairs and VQA rows: written by a model, verified by people."""

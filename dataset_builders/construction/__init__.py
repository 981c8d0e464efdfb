"""A benchmark, caption pairs and questions from your own images and videos: written by a model, verified by people."""

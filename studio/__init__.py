"""Inspect, size, load, fine-tune, merge, talk to and publish language models on one GPU, or on none."""

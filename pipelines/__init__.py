"""Stages on Ray Train: shards, training, evaluation, report."""

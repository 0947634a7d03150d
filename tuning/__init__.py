"""Sweeps: Ray Tune runs the trials, an Optuna study is their only record."""

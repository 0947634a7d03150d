"""Few-shot learning in plain PyTorch: methods, losses, backbones, evaluation."""

"""What metajax's updates are timed against: the same ones in PyTorch, each way of writing them."""

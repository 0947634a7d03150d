"""Our methods; importing this package registers them."""

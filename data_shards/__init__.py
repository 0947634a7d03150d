"""WebDataset shards with a Parquet index: write, check, order, read."""

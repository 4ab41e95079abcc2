"""What a dataset is, and the columns that follow from others."""

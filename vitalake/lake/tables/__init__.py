"""One Delta table on a folder or a bucket: storage, log, schema, files, digests."""

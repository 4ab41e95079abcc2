"""What may be seen of the lake: data classes, masking rules as data, and the masks themselves."""

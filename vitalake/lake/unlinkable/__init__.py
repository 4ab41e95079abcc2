"""What is published of times, versions and places, so that rows of one person cannot be put in order."""

"""The online store: values, stays and decisions of current patients, with their true times; for treatment only."""

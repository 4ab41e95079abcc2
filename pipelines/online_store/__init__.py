"""The care store: what is known of current patients, true times and all, for treatment only."""

"""The attributor: writes the rows whose patient becomes known, or changes, after their messages came."""

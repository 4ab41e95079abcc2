"""Clinical definitions that all packages share: records, statuses, vital signs, patients held out of training."""

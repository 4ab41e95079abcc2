"""Clinical words that all storeys share: records, statuses, vital signs, who is held out of training."""

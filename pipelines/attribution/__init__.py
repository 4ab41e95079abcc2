"""Finds the patient of a device's values from associations of devices with patients, whichever came first."""

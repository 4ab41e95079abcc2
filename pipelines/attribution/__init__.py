"""Whose a device's values are: associations of devices with patients, applied to rows before and after they came."""

"""Simulated bedside devices: real or made-up vital signs as FHIR Observations into Kafka."""

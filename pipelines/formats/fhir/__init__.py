"""FHIR R4: Observations, and the resources that become rows of other datasets."""

"""FHIR R4: Observations, and the resources that become records."""

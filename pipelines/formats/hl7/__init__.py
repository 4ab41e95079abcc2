"""HL7 v2: results (ORU) and movements (ADT)."""

"""How data come in: decoding, the live lane from Kafka, dead letters, and simulated devices."""

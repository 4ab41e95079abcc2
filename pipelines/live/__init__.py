"""The live lane: Kafka → decode → conform → mask → spans in the lake."""

"""What every lane shares: polls, the span writer, the look-back, dead letters, and the consumer of Kafka."""

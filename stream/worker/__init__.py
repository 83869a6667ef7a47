"""The worker: the core, the wire formats and a bundle, run by Faust's batch path against Kafka."""

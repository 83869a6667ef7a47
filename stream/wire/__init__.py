"""What goes over Kafka: the messages as types, their bytes, and their way to and from the arrays of `stream.core`."""

"""What the adapter of RabbitMQ needs of its protocol: connections, confirms, and refusals."""

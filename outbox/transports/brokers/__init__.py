"""Ways through a broker: what is sent is taken durably, and a consumer of the receiver reads it."""

"""What says where services are, for tests: name servers and an agent of Consul."""

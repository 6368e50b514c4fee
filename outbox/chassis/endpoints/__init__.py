"""The addresses that every service has: /livez, /readyz, /metrics, /docs."""

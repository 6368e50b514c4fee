"""Both ends of HTTP in tests: servers, browsers, proxies."""

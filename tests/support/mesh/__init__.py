"""Real Envoys, started with the files of `deploy/envoy`, and the blog behind them."""

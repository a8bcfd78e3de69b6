"""The collector: what the proxies report of requests and connections, kept for a while and answered for."""

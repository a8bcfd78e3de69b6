"""Whole proxies under load, next to each other: what a request costs each of them."""

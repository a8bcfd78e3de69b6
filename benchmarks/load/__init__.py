"""Load of our own making: what is sent, when, over how many connections, and how long the answers took.

    python -m benchmarks.load --target http://127.0.0.1:8080/ --rate 1000 --connections 16 --seconds 5

`run.py` starts the same as a process on cores of its own: that is what the benchmarks call. It knows nothing of any
proxy, and measures every endpoint alike.
"""

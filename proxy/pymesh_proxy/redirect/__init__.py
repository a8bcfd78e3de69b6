"""pymesh-init: the iptables rules that lead a pod's traffic through its sidecar.

`rules` says what the rules are, `restore` puts them into iptables' words, `runner` talks to the machine.
"""

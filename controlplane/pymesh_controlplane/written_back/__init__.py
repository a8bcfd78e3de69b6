"""What the control plane writes into the cluster, one concern a module, done by the one replica that leads.

Each says what should be there, which is pure, and has it made so by `keeper`: whatever is missing or was changed is
written again, as often as it takes.
"""

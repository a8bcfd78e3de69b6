"""The control plane: pilot, citadel, galley, and the local mesh that runs them on one machine."""

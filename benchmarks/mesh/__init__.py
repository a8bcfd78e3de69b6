"""What a whole mesh costs: sidecars with the policy service and telemetry on and off, side by side."""

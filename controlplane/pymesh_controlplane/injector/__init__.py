"""inject(pod) → pod: the sidecar and the redirect, added to what somebody wrote."""

"""What a Kubernetes API server asks before it stores something: admission reviews, over TLS."""

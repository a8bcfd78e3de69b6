"""Where the world comes from: a directory of YAML, or the Kubernetes API, watched."""

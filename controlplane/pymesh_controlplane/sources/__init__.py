"""Where the world comes from: a directory of YAML, watched."""

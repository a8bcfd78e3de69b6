"""`pymesh demo`: the bookinfo sample in a mesh, real traffic from outside, and what the mesh says of it."""

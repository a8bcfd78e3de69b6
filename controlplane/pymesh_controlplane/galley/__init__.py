"""galley: what is refused before it can do harm, and in which words.

`check` judges resources against the world that they would make, with the same code that pilot translates them with.
"""

"""Recipes: a TOML file that says which cuts are made of one model, and how.

* `keys`: every key, what it takes, and the keyword of `onnx_headcut.cut` that it becomes
* `reading`: a file becomes a `Recipe`, or an error with the nearest right word
* `building`: a recipe's variants are cut from one load, several at once
"""

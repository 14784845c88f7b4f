"""The repositories: one module per noun, each with one or two tables."""

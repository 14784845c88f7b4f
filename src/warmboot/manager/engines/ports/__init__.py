"""Parts of what engines publish: where, by whose right, and what is taken."""

"""The data types: specs, states and their legal transitions, manifests, errors.

Pure: standard library only, no input or output, no clock.
"""

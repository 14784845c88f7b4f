"""The client of every Docker engine, the host's and those in guests, and its errors.

client    images, containers and sessions of any engine
engine    the host's own engine, which workers run on: its facts and checkpoints
requests  how an engine is asked, over the way that its ``place`` names
"""

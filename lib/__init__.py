"""The tested module that the notebooks share; a floor imports only from floors below it (see
README.md).
"""

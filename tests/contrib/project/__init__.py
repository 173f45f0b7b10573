"""A project of Django, as small as one can be."""

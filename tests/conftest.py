from hypothesis import settings

settings.register_profile("padim", deadline=None, derandomize=True)
settings.load_profile("padim")

"""Builds the native JPEG decoder; all else is in setup.cfg.

Without a C compiler or libjpeg-turbo's header (Debian: libjpeg-dev) the package
installs all the same, and decodes through simplejpeg.
"""

import setuptools

setuptools.setup(
  ext_modules=[
    setuptools.Extension(
      "sslx.data._native",
      ["sslx/data/_native.c"],
      libraries=["jpeg"],
      extra_compile_args=["-O3"],
      optional=True,
    )
  ]
)

"""Builds the native JPEG decoder; puts the recipes into the package.

Without a C compiler or libjpeg-turbo's header (Debian: libjpeg-dev) the package
installs all the same, and decodes through simplejpeg.
"""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=["sslx*"]), "sslx.configs"],
  package_dir={"sslx.configs": "configs"},
  package_data={
    "sslx.configs": ["**/*.py", "results/*.json"],
    "sslx": ["**/*.md", "**/*.c", "**/*.html"],
  },
  ext_modules=[
    setuptools.Extension(
      "sslx.data._native",
      ["sslx/data/_native.c"],
      libraries=["jpeg"],
      extra_compile_args=["-O3"],
      optional=True,
    )
  ],
)

"""Builds the native kernel of the observers where it can; without it everything works, with torch alone.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, LinkError


class BuildKernel(build_ext):
    """Returns the build of a plain shared library: with OpenMP, or else without. It has no Python module in it."""

    def build_extension(self, ext: Extension) -> None:
        """Compiles and links; the last failure is a warning, because the extension is optional."""
        try:
            self._build_with(ext, ["-fopenmp"])
        except (CCompilerError, CompileError, LinkError):
            self._build_with(ext, [])

    def _build_with(self, ext: Extension, flags: list[str]) -> None:
        ext.extra_compile_args, ext.extra_link_args = ["-std=c99", "-O3", *flags], flags
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Returns nothing: there is no PyInit."""
        return []


setup(
    ext_modules=[
        Extension(
            "quantwright.observers._native",
            ["src/quantwright/observers/_native.c"],
            optional=True,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildKernel},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

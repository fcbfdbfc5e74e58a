"""The wheel holds one name, farfield; its folders stay at the top of the repository."""

from setuptools import find_packages, setup

FOLDERS = ("core_ops", "apps", "recipes", "models")
packages = [f"farfield.{p}" for p in find_packages(include=[g for f in FOLDERS for g in (f, f"{f}.*")])]
setup(
    packages=["farfield", *packages],
    package_dir={"farfield": ".typing/farfield"} | {f"farfield.{f}": f for f in FOLDERS},
    package_data={
        "farfield.recipes": ["**/*.yaml"],
        "farfield.models": ["**/*.safetensors", "**/*.json", "**/*.md"],
        "farfield.apps.genomics": ["data/*"],
        "farfield.apps.retrieval": ["data/*"],
        "farfield.core_ops": ["py.typed", "**/*.md", "**/*.cuh", "**/*.cu"],
    },
)

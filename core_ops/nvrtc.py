"""CUDA sources compiled by NVRTC at first use, cubins kept on disk, launches on torch's current stream."""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

HEADERS = ("nvidia.cu13", "nvidia.cuda_runtime")


def cache_folder() -> Path:
    """Where cubins are kept: FARFIELD_CACHE, else XDG_CACHE_HOME or ~/.cache, /farfield/cubin."""
    root = os.environ.get("FARFIELD_CACHE")
    if root:
        return Path(root) / "cubin"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "farfield" / "cubin"


def include_folders() -> list[str]:
    """Folders with cuda_fp16.h and cuda_bf16.h: the packages that torch brings, then CUDA_HOME."""
    folders = []
    for name in HEADERS:
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:
            spec = None
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folders.append(Path(place) / "include")
    folders.append(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include")
    return [str(folder) for folder in folders if (folder / "cuda_bf16.h").exists()]


@cache
def sources_digest(folder: Path) -> str:
    """A hash over every source of a folder: a cubin is only used with the sources it was made from."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.cuh")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cubin(source: Path, options: Mapping[str, int | str], arch: str, folders: Sequence[Path] = ()) -> bytes:
    """Machine code of one source.

    Args:
        source: The file; what it includes stands beside it.
        options: Macros.
        arch: As NVRTC names it, for example "sm_90a".
        folders: Others with sources that it includes.
    Returns: The cubin, from the cache folder if it is there.
    """
    from cuda.bindings import nvrtc

    version = nvrtc.nvrtcVersion()[1:]
    sources = [sources_digest(folder) for folder in (source.parent, *folders)]
    text = repr((sources, source.name, sorted(options.items()), arch, version))
    path = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.cubin"
    if path.exists():
        digest, code = path.read_bytes()[:32], path.read_bytes()[32:]
        if hashlib.sha256(code).digest() == digest:
            return code
    code = compile_source(source, options, arch, folders)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    part.write_bytes(hashlib.sha256(code).digest() + code)
    os.replace(part, path)
    return code


def compile_source(source: Path, options: Mapping[str, int | str], arch: str, folders: Sequence[Path] = ()) -> bytes:
    """Compile without looking at the cache."""
    from cuda.core import Program, ProgramOptions

    built = ProgramOptions(
        name=source.name,
        std="c++17",
        device_as_default_execution_space=True,
        arch=arch,
        include_path=[*map(str, (source.parent, *folders)), *include_folders()],
        define_macro=[(name, str(value)) for name, value in options.items()],
    )
    code = Program(source.read_text(), code_type="c++", options=built).compile("cubin").code
    return bytes(code)


@cache
def stream_at(handle: int) -> Any:
    """A stream of torch's, as cuda.core takes it."""
    from cuda.core import Stream

    return Stream.from_handle(handle)


@cache
def config_of(grid: int, block: int, shared: int) -> Any:
    """A launch of so many blocks."""
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=grid, block=block, shmem_size=shared)


bound = threading.local()


def bind(index: int) -> None:
    """Make a device's context current in this thread: autograd's threads come without one."""
    if getattr(bound, "index", None) != index:
        from cuda.core import Device

        Device(index).set_current()
        bound.index = index


class Module:
    """The kernels of one source with one set of options on one device; folders: see cubin."""

    def __init__(
        self, source: Path, options: Mapping[str, int | str], device: torch.device, folders: Sequence[Path] = ()
    ) -> None:
        from cuda.core import ObjectCode, launch

        torch.cuda.init()  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            torch.cuda.current_stream(device)
            bind(device.index)
            major, minor = torch.cuda.get_device_capability(device)
            arch = f"sm_{major}{minor}" + ("a" if major == 9 else "")
            self.code = ObjectCode.from_cubin(cubin(source, options, arch, folders))
        self.index: int = device.index
        self.start = launch
        self.kernels: dict[str, Any] = {}
        self.shared: dict[str, int] = {}

    def kernel(self, name: str, shared: int) -> Any:
        """A kernel that may take this much dynamic shared memory."""
        from cuda.bindings import driver

        if name not in self.kernels:
            self.kernels[name] = self.code.get_kernel(name)
            self.shared[name] = 48 << 10
        if shared > self.shared[name]:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            (status,) = driver.cuKernelSetAttribute(attribute, shared, self.kernels[name].handle, self.index)
            if status != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(f"{name}: {shared} bytes of shared memory refused: {status}")
            self.shared[name] = shared
        return self.kernels[name]

    def launch(self, name: str, grid: int, block: int, shared: int, *arguments: Any) -> None:
        """Launch on torch's current stream; tensors go as addresses, ints as 64-bit, numpy scalars as they are."""
        bind(self.index)
        kernel = self.kernels[name] if shared <= self.shared.get(name, -1) else self.kernel(name, shared)
        stream = stream_at(torch._C._cuda_getCurrentRawStream(self.index))
        self.start(stream, config_of(grid, block, shared), kernel, *arguments)

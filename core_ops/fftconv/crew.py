"""A crew of threads that run torch on one core each: no barrier between operators, and data stay in a core's cache."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

NAME = "farfield-crew"
Work = Callable[[int, "Lane"], None]
Each = Callable[[int, Work], None]


class Lane:
    """Buffers of one worker, made once a call and used again."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer of this shape with whatever it held before."""
        count = 1
        for n in shape:
            count *= n
        held = self.buffers.get(name)
        if held is None or held.dtype != dtype or held.numel() < count:
            held = self.buffers[name] = torch.empty(count, dtype=dtype)
        return held[:count].view(shape)


class Crew:
    """Worker threads, each with torch set to one thread; the caller's own setting is read and kept.

    Args:
        size: How many; 1 works in the caller's thread.
    """

    made: "Crew | None" = None
    lock = threading.Lock()

    def __init__(self, size: int) -> None:
        self.size = size
        self.pool = ThreadPoolExecutor(size, thread_name_prefix=NAME) if size > 1 else None
        if self.pool is None:
            return
        gate = threading.Barrier(size)

        def settle() -> None:
            torch.set_num_threads(1)
            # Torch reads the setting when a thread first asks for it: it must be this one.
            torch.get_num_threads()
            gate.wait()

        for done in [self.pool.submit(settle) for _ in range(size)]:
            done.result()
        torch.set_num_threads(size)

    @classmethod
    def of_caller(cls) -> "Crew":
        """The crew of as many threads as torch has in the calling thread."""
        size = torch.get_num_threads()
        with cls.lock:
            if cls.made is None or cls.made.size != size:
                if cls.made is not None and cls.made.pool is not None:
                    cls.made.pool.shutdown(wait=False)
                cls.made = cls(size)
            return cls.made

    def alone(self, make: Callable[[], Tensor]) -> Tensor:
        """make() on one core: in a thread of the crew, or at once where this is one already."""
        if self.pool is None or threading.current_thread().name.startswith(NAME):
            return make()

        def one() -> Tensor:
            with torch.inference_mode():
                return make()

        return self.pool.submit(one).result()

    def each(self, lanes: list[Lane]) -> Each:
        """A function that runs work(i, lane) for i < count on all threads, each with its own lane."""

        def run(count: int, work: Work) -> None:
            if self.pool is None or count == 1:
                serial(lanes[0])(count, work)
                return
            numbers = itertools.count()

            def loop(lane: Lane) -> None:
                with torch.inference_mode():
                    while (i := next(numbers)) < count:
                        work(i, lane)

            for done in [self.pool.submit(loop, lane) for lane in lanes[:count]]:
                done.result()

        return run


def serial(lane: Lane) -> Each:
    """A function that runs work(i, lane) for i < count one after the other, in the calling thread."""

    def run(count: int, work: Work) -> None:
        with torch.inference_mode():
            for i in range(count):
                work(i, lane)

    return run


def forget() -> None:
    """Drop the crew: its threads do not exist in a forked child."""
    Crew.made = None
    Crew.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)

"""The engine with no server around it: set the input, invoke, get the output, over and over, a process a core.

Usage: python bare.py MODEL SECONDS PROCESSES

Prints calls a second, all processes together, and microseconds of processor time for a call.
"""

import multiprocessing
import statistics
import sys
import time
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

BATCH = 16  # calls between two looks at the clock


def measure(path: str, seconds: float, start: Any) -> tuple[float, float]:
    """Calls a second of one interpreter with one thread, and microseconds of processor time for a call."""
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    tensor = np.random.default_rng(4).integers(-128, 128, source["shape"], np.int8)
    interpreter.invoke()
    start.wait()
    calls, began, used = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        for _ in range(BATCH):
            interpreter.set_tensor(source["index"], tensor)
            interpreter.invoke()
            interpreter.get_tensor(result)
        calls += BATCH
    return calls / elapsed, (time.process_time() - used) / calls * 1e6


def _worker(path: str, seconds: float, start: Any, rates: Any) -> None:
    rates.put(measure(path, seconds, start))


def main() -> None:
    """Run the processes side by side and print the sum of their rates and the mean of their costs."""
    path, seconds, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    start, rates = multiprocessing.Barrier(count), multiprocessing.Queue()
    workers = [multiprocessing.Process(target=_worker, args=(path, seconds, start, rates)) for _ in range(count)]
    for worker in workers:
        worker.start()
    seen = [rates.get() for _ in workers]
    print(sum(rate for rate, _ in seen), statistics.mean(used for _, used in seen))
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()

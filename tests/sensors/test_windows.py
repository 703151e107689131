"""Windows hold the right readings, in order, and nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sensors.faults import Fault
from edge_runtime.sensors.windows import Window


def reading(*values: float) -> np.ndarray:
    """One reading of these channels."""
    return np.array(values, dtype=np.float64)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 80))
def test_windows_are_slices_of_the_readings(count: int, hop: int, total: int) -> None:
    """Window k holds readings k*hop to k*hop + count, for overlapping, adjoining and spaced windows."""
    window = Window(count, hop)
    got = [array for i in range(total) if (array := window.push(reading(i, -i))) is not None]
    step = hop or count
    starts = [start for start in range(0, total, step) if start + count <= total]
    assert [array[:, 0].tolist() for array in got] == [list(range(start, start + count)) for start in starts]
    assert all(array.shape == (count, 2) and array.dtype == np.float64 for array in got)


def test_a_window_is_its_own_copy() -> None:
    """Readings that come later do not change a window that was given out."""
    window = Window(2, 1)
    window.push(reading(1))
    first = window.push(reading(2))
    window.push(reading(3))
    assert first is not None
    assert first.tolist() == [[1], [2]]


def test_another_number_of_channels_is_counted_and_dropped() -> None:
    """A reading that lost a channel is left out; the window goes on with the next good one."""
    window = Window(2)
    assert window.push(reading(1, 2)) is None
    assert window.push(reading(1)) is None
    assert window.push(reading(1, 2, 3)) is None
    done = window.push(reading(3, 4))
    assert done is not None
    assert done.tolist() == [[1, 2], [3, 4]]
    assert window.faults == {Fault.CHANNELS: 2}


def test_a_first_reading_that_was_cut_does_not_block_the_sensor() -> None:
    """Joined in the middle of a line, the first reading has too few channels; the sensor's own number wins soon."""
    window = Window(3)
    assert window.push(reading(0.5)) is None
    got = [array for i in range(12) if (array := window.push(reading(i, i, i))) is not None]
    assert [array[:, 0].tolist() for array in got] == [[7, 8, 9]]
    assert window.faults == {Fault.CHANNELS: 7}


def test_reset_starts_a_new_window() -> None:
    """No window spans a gap, and what follows may have other channels."""
    window = Window(2)
    window.push(reading(1, 1))
    window.reset()
    assert window.push(reading(2)) is None
    done = window.push(reading(3))
    assert done is not None
    assert done.tolist() == [[2], [3]]


def test_a_window_is_bounded_in_memory() -> None:
    """A reading with so many channels that its window would pass max_bytes is refused before memory is taken."""
    window = Window(1_000_000, max_bytes=8_000_000)
    assert window.push(reading(1, 2)) is None
    assert window.faults == {Fault.WINDOW_TOO_LARGE: 1}
    assert window.push(reading(1)) is None
    assert window.faults == {Fault.WINDOW_TOO_LARGE: 1}
